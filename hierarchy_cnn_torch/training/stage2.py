"""Stage 2: trains a hierarchy-aware network or one of its controls on the tree of stage 1, or on another tree."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hierarchy_cnn_torch.data.images import Data
from hierarchy_cnn_torch.data.tree_files import load_tree, named_tree
from hierarchy_cnn_torch.flags import Config, as_user_error, parse_numbers, parse_taps, read_config
from hierarchy_cnn_torch.method import trees
from hierarchy_cnn_torch.method.branches import Branches, branches_of, loss_weights
from hierarchy_cnn_torch.networks.alexnet import trunk_of, widened
from hierarchy_cnn_torch.training import evaluate, loop, record
from reproduction.runtime.run_folder import Run, Stop, UserError, shown
from reproduction.runtime.torch_runtime import World, parameter_count


def finished_stage_1(config: Config) -> Path:
    """Returns the finished folder of stage 1.

    Raises:
      UserError: it is missing or not finished; the message holds the command that makes it.
    """
    folder = Path(config.flat_run or "")
    if (folder / "DONE").exists():
        return folder
    raise UserError(
        f"--stage aware needs a finished stage 1 in {shown(folder)}; run: {command_of_stage_1(config.argv, folder)}"
    )


def command_of_stage_1(argv: Sequence[str], folder: Path) -> str:
    """Returns the command line that trains A0 with the flags of a command line of stage 2.

    Args:
      argv: of stage 2, without the script's name.
      folder: run folder of A0.
    """
    words, arguments = [], iter(argv)
    for word in arguments:
        name, equals, _ = word.replace("_", "-").partition("=")
        if name == "--overwrite":
            continue  # of stage 2; a killed stage 1 has checkpoints to resume from
        if name not in ("--stage", "--arm", "--out", "--name", "--runs-dir", "--flat-run", "--keep-epochs"):
            words.append(word)
        elif not equals:
            next(arguments, None)
    script = "hierarchy_cnn_torch/train.py"
    return shlex.join(["python", script, *words, "--stage", "flat", "--out", shown(folder)])


def train(config: Config, data: Data, run: Run, world: World, stop: Stop) -> None:
    """Trains one of A1 to A5 from its flags to its record.

    Args:
      config: resolved flags.
      data: images in their splits.
      run: open run folder.
      world: the processes that train together.
      stop: set by SIGINT or SIGTERM.
    Raises:
      UserError: stage 1 is missing, or --levels, --taps or --bt-switch do not fit the tree.
    """
    levels, tree = levels_for(config, data.names)
    trunk = None
    with as_user_error():
        branches = branches_of("A1" if config.arm == "A5" else config.arm, levels, parse_taps(config.taps), config.seed)
        if config.arm != "A5":
            switches = parse_numbers("--bt-switch", config.bt_switch)
            loss_weights(config.schedule, len(branches.taps), config.lambda_, 0, config.epochs, switches)
    if config.arm == "A5":  # flat, with as many parameters as A1
        size = parameter_count(evaluate.rebuild(config, data, branches.outputs()))
        trunk = widened(trunk_of(config.trunk, config.preset), data.images.shape[3], len(data.names), size)
        branches = Branches((), ())
    network = evaluate.rebuild(config, data, branches.outputs(), trunk).to(world.device)
    record.describe(config, data, network, branches, world)
    training = loop.run(config, network, data, branches, world, stop, run.folder)
    splits = evaluate.evaluate_splits(network, data, config, world, training.history, run.folder)
    if world.rank == 0:
        record.write_record(config, run, network, data, branches, tree, training, splits)


def levels_for(config: Config, names: list[str]) -> tuple[list[np.ndarray], trees.Node]:
    """Returns the levels that the branches fit, coarsest first, and their tree.

    Of a tree file that stage 1 was given too, this is the copy that stage 1 wrote: all variants share one tree.

    Raises:
      UserError: the tree is missing, comes from images that A0 was trained on, or has no level of a size that
        --levels asks for.
    """
    if config.tree in ("derived", "random"):
        folder = finished_stage_1(config)
        if read_config(folder).train_held_out:
            raise UserError(
                f"--tree {config.tree}: {shown(folder)} was trained on the held-out images too, and its tree must come "
                "from others; run stage 1 again without --train-held-out"
            )
        tree = load_tree(folder / "tree.json", names)
    else:
        copy = Path(config.flat_run or "") / "given_tree.json"
        if copy.exists() and read_config(copy.parent).tree == config.tree:
            tree = load_tree(copy, names)
            if is_another(config.tree, tree, names):
                print(
                    f"warning: {shown(config.tree)} is no longer the tree of stage 1, {shown(copy)}, which is used",
                    file=sys.stderr,
                )
        else:
            tree = named_tree(config.tree, config.dataset, names)
    if config.tree == "random":
        tree = trees.tree_of(trees.random_levels(trees.levels_of(tree), config.seed), names)
    with as_user_error():
        return trees.choose_levels(tree, parse_numbers("--levels", config.levels)), tree


def is_another(path: str, tree: trees.Node, names: list[str]) -> bool:
    """Whether a file no longer holds this tree: it was edited, damaged or removed."""
    try:
        return load_tree(path, names) != tree
    except UserError:
        return True
