"""Accuracy in bfloat16 against float32: the baseline of profile matched, three seeds, a third of the schedule or so."""

from __future__ import annotations

import contextlib
import functools
import importlib
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import datasets
from benchmarks.measure import Benchmark, Measure, NotSupported, output_of
from datasets import DatasetError
from reproduction.launch.pipeline import Command, Request
from reproduction.launch.sweep import FOLDERS
from reproduction.runtime.record import commit_and_dirty, load_record

SEEDS = (0, 1, 2)
LIMIT = 0.5  # points between the two means that we accept
STEPS_LIMIT = 2.0  # per cent between the two mean losses that we accept
# paper -> data set, variant and metric of the baseline, and flags of a schedule about a third as long
BASELINES = {
    "class2str": ("cifar10", "", "fc_accuracy", ("--epochs", "4")),
    "subclass": ("cifar10", "baseline", "ccr", ("--epochs", "4", "--max_steps", "1562")),
    "finegrained": ("cifar10", "", "accuracy", ("--stage", "coarse", "--max_epochs", "8")),
    "hierarchy": ("cifar10", "", "A0/test_accuracy", ("--epochs", "4", "--keep-epochs", "none")),
    "triplet": ("dogs", "vanilla", "accuracy", ("--train_iters", "500", "--accept-unverified")),
}
FLAGS = {"float32": (), "bfloat16": ("--amp", "bf16")}
FLAGS_FINEGRAINED = {"float32": ("--precision", "32-true"), "bfloat16": ("--precision", "bf16-mixed")}
DROPPED = ("--amp", "--neglected")  # flags with a value: the precision is ours, and stage 1 is not needed


def baseline(paper: str, seed: int, small: bool) -> tuple[Request, Command]:
    """Returns the request of profile matched (`small`: smoke, on digits) and its training of the baseline."""
    dataset, variant = BASELINES[paper][:2]
    profile, dataset = ("smoke", "mnist5k") if small else ("matched", dataset)
    request = Request(profile, dataset, (seed,), "cpu")
    commands = importlib.import_module(f"{FOLDERS[paper]}.reproduce").commands_of(request)
    return request, next(command for command in commands if command.row == request.row(variant))


def words(paper: str, seed: int, precision: str, small: bool, folder: Path) -> list[str]:
    """Returns the script that trains the baseline, and its flags.

    Args:
      paper: whose.
      seed: of the run.
      precision: one of FLAGS.
      small: train the smoke profile instead, on digits.
      folder: the run folder.
    """
    _, command = baseline(paper, seed, small)
    dropped = {at + shift for at, word in enumerate(command.flags) if word in DROPPED for shift in (0, 1)}
    flags = [word for at, word in enumerate(command.flags) if at not in dropped]
    flags += () if small else BASELINES[paper][3]
    flags += (FLAGS_FINEGRAINED if paper == "finegrained" else FLAGS)[precision]
    return [command.script, *flags, "--runs-dir", str(folder.parent), "--name", folder.name]


def accuracy(paper: str, seed: int, precision: str, small: bool, folder: Path) -> tuple[float, float]:
    """Trains the baseline in a process of its own; arguments as in `words`.

    Returns:
      (test accuracy after the last epoch, in per cent, seconds of the training).
    Raises:
      RuntimeError: the training failed; the message is its last line.
    """
    script, *flags = words(paper, seed, precision, small, folder)
    output_of([sys.executable, script, *flags], f"{script}: ")
    metric = BASELINES[paper][2]
    records = [load_record(path) for path in folder.rglob("record.json")]
    record = next(record for record in records if metric in record.metrics)
    return 100 * (record.metrics[metric].last or 0), record.seconds


def check_support(paper: str, small: bool) -> None:
    """Checks that a comparison can be run here.

    Raises:
      NotSupported: this CPU has no instructions for bfloat16, or the data set or the weights are not here.
    """
    import torch

    from reproduction.runtime.torch_fast import computes_bf16

    if small:
        return
    if not computes_bf16(torch.device("cpu")):
        raise NotSupported("this CPU has no instructions for bfloat16; --amp auto computes in float32")
    if paper == "triplet":
        from triplet_tf.reproduce import missing

        request, command = baseline(paper, SEEDS[0], small)
        if lacking := missing(request, [command]):
            raise NotSupported(lacking)
        return
    try:
        datasets.load(BASELINES[paper][0], offline=True)
    except DatasetError as error:
        raise NotSupported(str(error).splitlines()[0]) from None


@contextlib.contextmanager
def runs_folder(paper: str, small: bool) -> Iterator[Path]:
    """Yields the folder of the trainings. At a commit without changes, a comparison that was stopped goes on there."""
    commit, dirty = commit_and_dirty()
    if small or dirty:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
        return
    folder = Path(tempfile.gettempdir()) / f"precision-{paper}-{commit}"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def difference(paper: str, small: bool) -> Measure:
    """How far apart the mean accuracies of both precisions are, in points.

    Raises:
      NotSupported: see `check_support`.
    """
    check_support(paper, small)
    accuracies: dict[str, list[float]] = {}
    minutes = 0.0
    with runs_folder(paper, small) as runs:
        for precision in FLAGS:
            runs_of = [
                accuracy(paper, seed, precision, small, runs / f"{precision}-{seed}")
                for seed in SEEDS[: 1 if small else None]
            ]
            accuracies[precision] = [reached for reached, _ in runs_of]
            minutes += sum(seconds for _, seconds in runs_of) / 60
    apart = abs(statistics.mean(accuracies["bfloat16"]) - statistics.mean(accuracies["float32"]))
    note = "; ".join(f"{key} {', '.join(f'{value:.2f}' for value in values)} %" for key, values in accuracies.items())
    note += f"; {minutes:.0f} minutes of training"
    name = {"cifar10": "CIFAR-10", "dogs": "Stanford Dogs"}[BASELINES[paper][0]]
    what = "smoke profile" if small else f"{name}, baseline of profile matched, fewer epochs"
    title = f"{paper}, {what}: mean accuracy in bfloat16 against float32, {len(accuracies['float32'])} seeds"
    return Measure(title, "points", [max(apart, 0.01)], LIMIT, note)  # 0 has no ratio


def first_steps(small: bool) -> Measure:
    """How far apart the mean losses of triplet's first 20 steps are in both precisions, in per cent.

    The other papers' tests compare their first steps. From random weights 27 batch normalisations in turn make the
    losses of MobileNet differ too much for that, so this one starts from the ImageNet weights.

    Raises:
      NotSupported: see `check_support`.
    """
    from reproduction.runtime import tf_runtime
    from reproduction.runtime.tf import tf1
    from triplet_tf import nets
    from triplet_tf.config.base_config import parse, training_parser
    from triplet_tf.data_sampling.image_lists import open_lists
    from triplet_tf.training.graph import build

    check_support("triplet", small)
    config = parse(training_parser(), words("triplet", SEEDS[0], "float32", small, Path("runs/unused"))[1:])
    losses: dict[str, float] = {}
    for precision, flags in FLAGS.items():
        session_config = tf_runtime.start(config.seed, "cpu", amp=flags[-1] if flags else None)
        with tf1.Graph().as_default():
            tf1.set_random_seed(config.seed)
            graph = build(config, open_lists(config))
            with tf_runtime.session(session_config) as session:
                if config.init == "imagenet":
                    nets.restore_imagenet(session, config.net, nets.imagenet_checkpoint(config))
                graph.batches.start(session, 0)
                losses[precision] = statistics.fmean(
                    float(session.run([graph.loss, graph.train])[0]) for _ in range(2 if small else 20)
                )
    apart = 100 * abs(losses["bfloat16"] / losses["float32"] - 1)
    note = "; ".join(f"{key} {value:.4f}" for key, value in losses.items())
    title = f"triplet, {'smoke profile' if small else 'Stanford Dogs, softmax alone'}: mean loss of the first 20 steps"
    return Measure(f"{title} in bfloat16 against float32", "%", [max(apart, 0.01)], STEPS_LIMIT, note)


BENCHMARKS: dict[str, Benchmark] = {
    **{paper: functools.partial(difference, paper) for paper in BASELINES},
    "triplet steps": first_steps,
}
