"""Stage 1: trains the flat network and derives a class tree from its held-out scores."""

from __future__ import annotations

import sys

import numpy as np
import torch

from hierarchy_cnn_torch.data.images import Data
from hierarchy_cnn_torch.data.label_noise import noise_tree
from hierarchy_cnn_torch.data.tree_files import load_tree, save_tree
from hierarchy_cnn_torch.flags import TREES, Config, as_user_error, parse_numbers
from hierarchy_cnn_torch.method import similarity, trees
from hierarchy_cnn_torch.method.branches import Branches
from hierarchy_cnn_torch.networks.alexnet import Network
from hierarchy_cnn_torch.training import evaluate, loop, record
from reproduction.runtime.arrays import confusion_counts
from reproduction.runtime.run_folder import Run, Stop
from reproduction.runtime.torch_runtime import World


def train(config: Config, data: Data, run: Run, world: World, stop: Stop) -> None:
    """Trains the flat network (A0) from its flags to its record, or, with --folds, on all folds but one.

    Args:
      config: resolved flags.
      data: images in their splits.
      run: open run folder.
      world: the processes that train together.
      stop: set by SIGINT or SIGTERM.
    Raises:
      UserError: --levels asks for numbers of groups that the classes cannot form, the label study lacks a tree, or
        a tree file cannot be used.
    """
    with as_user_error():
        similarity.check_sizes(parse_numbers("--levels", config.levels), len(data.names))
    tree = noise_tree(config, data.names) if config.folds else None
    if config.tree not in TREES and not config.folds:
        tree_of_file = load_tree(config.tree, data.names)
        if world.rank == 0:  # the analysis reads this copy: the file may be edited or removed
            save_tree(run.folder / "given_tree.json", tree_of_file)
    branches = Branches((), ())
    network = evaluate.rebuild(config, data).to(world.device)
    record.describe(config, data, network, branches, world)
    training = loop.run(config, network, data, branches, world, stop, run.folder)
    if tree:
        scores, _ = evaluate.scores_of(network, data.images[data.val], data, config, world)
        if world.rank == 0:
            record.write_fold(config, run, data, training, scores, tree)
        return
    splits = evaluate.evaluate_splits(network, data, config, world, training.history, run.folder)
    if world.rank == 0:
        tree = derive_tree(config, network, data, splits.val.numpy(), world.device)
        record.write_record(config, run, network, data, branches, tree, training, splits)


def derive_tree(config: Config, network: Network, data: Data, logits: np.ndarray, device: torch.device) -> trees.Node:
    """Returns the class tree of stage 1, from the held-out part of the training images, never from the test set.

    Args:
      config: resolved flags; --similarity says what the tree is made of.
      network: trained.
      data: images in their splits.
      logits: float32 [N, K] of the held-out part.
      device: where the network is.
    """
    # DEVIATION HCN-D06: a tree of the network's own scores in place of WordNet's
    labels, kind = data.labels[data.val], config.similarity
    if kind == "logits":
        distance = similarity.score_distance(logits)
    elif kind == "weights":
        distance = similarity.profile_correlation_distance(network.fc8.weight.detach().cpu().numpy())
    elif kind == "responses":
        profiles = evaluate.class_profiles(network, data, data.images[data.val], labels, config, device, ("fc7",))
        distance = similarity.profile_correlation_distance(profiles["fc7"])
    else:
        counts = confusion_counts(labels, logits.argmax(1), len(data.names))
        distance = similarity.confusion_distance(counts) if kind == "confusion" else similarity.profile_distance(counts)
    sizes = parse_numbers("--levels", config.levels) or similarity.default_sizes(len(data.names))
    levels = similarity.cut(similarity.dendrogram(distance), sizes)
    if message := similarity.lacking(levels, parse_numbers("--levels", config.levels)):
        print(f"warning: {message}", file=sys.stderr, flush=True)
    return trees.tree_of(levels, data.names)
