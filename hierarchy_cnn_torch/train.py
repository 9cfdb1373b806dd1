"""Trains one arm of the study.

Stage flat trains the flat CNN (A0) and derives a class hierarchy from its held-out scores; stage aware trains a
hierarchy-aware network or one of its controls (A1 to A5).

    python hierarchy_cnn_torch/train.py --dataset fashion_mnist --stage flat --out runs/hierarchy/mine/A0
    python hierarchy_cnn_torch/train.py --dataset fashion_mnist --stage aware --arm A1 --out runs/hierarchy/mine/A1
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from hierarchy_cnn_torch import flags
from hierarchy_cnn_torch.method import trees
from reproduction.runtime import run_data
from reproduction.runtime.flags import finish_parsing, run_main
from reproduction.runtime.run_folder import Run, UserError, open_run, shown, stop_signals

if TYPE_CHECKING:
    import torch

    from hierarchy_cnn_torch.data.images import Data
    from hierarchy_cnn_torch.method.branches import Branches
    from hierarchy_cnn_torch.networks.alexnet import Network
    from reproduction.runtime.torch_runtime import World


def stage_one(config: dict[str, Any]) -> Path:
    """Stage 1's finished folder.

    Raises:
      UserError: it is missing or not finished; the message holds the command that makes it.
    """
    folder = Path(config["flat_run"])
    if (folder / "DONE").exists():
        return folder
    words = ["python hierarchy_cnn_torch/train.py --stage flat --dataset", config["dataset"]]
    words += ["--preset", config["preset"], "--epochs", str(config["epochs"]), "--batch", str(config["batch"])]
    words += ["--lr", f"{config['lr']:g}", "--seed", str(config["seed"]), "--subset", str(config["subset"])]
    words += ["--held-out", str(config["held_out"]), "--out", shown(folder)]
    raise UserError(f"--stage aware needs a finished stage 1 in {shown(folder)}; run: {' '.join(words)}")


def levels_for(config: dict[str, Any], names: list[str]) -> tuple[list[np.ndarray], trees.Node]:
    """Levels and tree that an aware arm fits."""
    sizes = flags.parse_numbers("--levels", config["levels"])
    kind = config["tree"]
    if kind == "derived":
        tree = trees.load_tree(stage_one(config) / "tree.json", names)
    elif kind == "random":
        tree = trees.load_tree(stage_one(config) / "tree.json", names)
        drawn = trees.random_levels(trees.levels_of(tree), config["seed"])
        tree = trees.tree_of(drawn, names)
    else:
        from hierarchy_cnn_torch.data.images import named_tree

        tree = named_tree(kind, config["dataset"], names)
    return trees.choose_levels(tree, sizes), tree


def derive_tree(
    config: dict[str, Any], network: Network, data: Data, logits: np.ndarray, device: torch.device
) -> trees.Node:
    """The hierarchy of stage 1, from the held-out part of the training images (never from the test set)."""
    from hierarchy_cnn_torch.method import similarity
    from hierarchy_cnn_torch.training.evaluate import class_profiles
    from hierarchy_cnn_torch.viewer.export import default_sizes

    labels, kind = data.labels[data.val], config["similarity"]
    counts = similarity.confusion_matrix(labels, logits.argmax(1), len(data.names))
    if kind == "logits":
        distance = similarity.score_distance(logits)
    elif kind == "weights":
        distance = similarity.profile_correlation_distance(network.fc8.weight.detach().cpu().numpy())
    elif kind == "responses":
        profiles = class_profiles(network, data, data.images[data.val], labels, config, device, ("fc7",))["fc7"]
        distance = similarity.profile_correlation_distance(profiles)
    else:
        distance = similarity.confusion_distance(counts) if kind == "confusion" else similarity.profile_distance(counts)
    asked = flags.parse_numbers("--levels", config["levels"])
    levels = similarity.cut(similarity.dendrogram(distance), asked or default_sizes(len(data.names)))
    if message := similarity.lacking(levels, asked):
        print(f"warning: {message}", file=sys.stderr, flush=True)
    return trees.tree_of(levels, data.names)


def train(config: dict[str, Any], data: Data, run: Any, world: World, stop: Any) -> None:
    """One arm from its flags to its record."""
    from hierarchy_cnn_torch.method import similarity
    from hierarchy_cnn_torch.method.branches import branches_of
    from hierarchy_cnn_torch.networks.alexnet import Network, parameters_of, trunk_of, widened
    from hierarchy_cnn_torch.training import loop, record

    tree: trees.Node | None = None
    branches: Branches = branches_of("A0", [], [], 0)
    trunk = trunk_of(config["trunk"], config["preset"])
    channels, classes = data.images.shape[3], len(data.names)
    if config["stage"] == "flat":
        similarity.check_sizes(flags.parse_numbers("--levels", config["levels"]), classes)
    if config["stage"] == "aware":
        levels, tree = levels_for(config, data.names)
        arm = "A1" if config["arm"] == "A5" else config["arm"]
        branches = branches_of(arm, levels, flags.parse_taps(config["taps"]), config["seed"])
        if config["arm"] == "A5":
            twin = Network(trunk, channels, classes, branches.outputs(), config["bn"])
            trunk = widened(trunk, channels, classes, parameters_of(twin))
            branches = branches_of("A5", levels, [], 0)
    network = Network(trunk, channels, classes, branches.outputs(), config["bn"], config["seed"]).to(world.device)
    if world.rank == 0:
        print(
            f"{config['dataset']}: {len(data.train):,} training, {len(data.val):,} held-out, {len(data.test_labels):,} "
            f"test images, {classes} classes; {config['arm']} ({flags.ARM_NAMES[config['arm']]}), "
            f"{parameters_of(network):,} parameters, branches {branches.outputs() or 'none'}; {world.device}",
            flush=True,
        )
    progress = loop.run(config, network, data, branches, world, stop, run.folder)
    record.finish(config, run, network, data, branches, tree, progress, world, derive_tree)


def evaluate(config: dict[str, Any], world: World) -> None:
    """--eval: top-1 accuracy of a checkpoint on the whole test set."""
    from hierarchy_cnn_torch.data import images
    from hierarchy_cnn_torch.networks.alexnet import Network, trunk_of
    from hierarchy_cnn_torch.training import loop
    from reproduction.runtime.torch_runtime import read_checkpoint

    data = images.load(config)
    state = read_checkpoint(Path(config["eval"]))
    trunk = trunk_of(config["trunk"], config["preset"])
    try:
        state = state.get("model", state)
        heads = {name.split(".")[1]: len(value) for name, value in state.items() if name.endswith(".5.bias")}
        network = Network(trunk, data.images.shape[3], len(data.names), heads, config["bn"])
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError, LookupError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"--eval {config['eval']}: does not fit --trunk, --preset or --dataset ({reason})") from None
    scores, _ = loop.scores_of(network.to(world.device), data.test_images, data, config, world)
    accuracy = float((scores.argmax(1).numpy() == data.test_labels).mean())
    print(f"{config['dataset']}: top-1 accuracy {100 * accuracy:.2f} % on {len(data.test_labels):,} test images")


def main() -> None:
    """Command line."""

    def go() -> None:
        config = finish_parsing(flags.train_parser(), flags.resolve_train)
        from hierarchy_cnn_torch.data import images
        from reproduction.runtime import torch_runtime as runtime

        runtime.start(config["seed"], config["threads"], config["deterministic"])
        with runtime.open_world(config["device"]) as world:
            if config["eval"]:
                evaluate(config, world)
                return
            if config["stage"] == "aware":
                stage_one(config)
            folder = Path(config["runs_dir"]) / config["name"]
            holds = world.rank == 0  # the folder, and knows whether the run has finished
            other = contextlib.nullcontext(Run(folder, config, False))
            with open_run(folder, config, config["overwrite"]) if holds else other as run, stop_signals() as stop:
                seen = run_data.look_at(config)
                load = functools.cache(lambda: images.load(config))

                def digests() -> dict[str, str]:
                    if config["stage"] == "aware":
                        hint = "run --stage flat with --overwrite, or choose --flat-run"
                        run_data.check_data(stage_one(config), load().digests, hint)
                    return load().digests

                if not runtime.decided(world, lambda: run_data.is_finished(run, seen, digests)):
                    train(config, load(), run, world, stop)

    run_main(go)


if __name__ == "__main__":
    main()
