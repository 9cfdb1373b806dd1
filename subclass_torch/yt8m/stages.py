"""The stages on YouTube-8M: find neglected classes, write subclass files, train and score."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from datasets.identity import Seen, content_digest, fingerprint
from reproduction.runtime import run_data
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.deviations import active
from reproduction.runtime.faults import first_line
from reproduction.runtime.flags import as_dict
from reproduction.runtime.loop import Training
from reproduction.runtime.record import Record, make_record, versions_of
from reproduction.runtime.run_folder import Run, Stop, UserError, open_run, read_json, shown, stop_signals, write_json
from reproduction.runtime.torch_runtime import World
from subclass_torch.deviations import VIDEOS
from subclass_torch.flags import identify_command
from subclass_torch.method import losses, neglect
from subclass_torch.networks.build import state_of
from subclass_torch.training.record import warn_of_unmeasured
from subclass_torch.yt8m import create, data
from subclass_torch.yt8m.flags import DECIDE_NOTHING, STAGE2_ONLY, Config
from subclass_torch.yt8m.loop import score, train_stage
from subclass_torch.yt8m.model import VideoNetwork

GPU_ROUNDING = 1e-4  # relative; ours, not measured on a GPU
PLAIN, TRAIN, EVAL = "plain-data-pattern-glob", "train_data_pattern_glob", "eval_data_pattern_glob"


def run(config: Config) -> None:
    """The whole of notebook_yt8m.py after its flags are resolved."""
    for name in config.ignored:
        print(f"--{name} has no effect, as in the released script")  # DEVIATION SDN-Y10: accepted, with a line
    runtime.start(config.seed, config.threads, amp=config.amp)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("notebook_yt8m.py runs in one process; torchrun is for notebook.py")
    with runtime.open_world(config.device) as world, stop_signals() as stop:
        if config.eval:
            score_checkpoint(config, world)
            return
        folder = Path(config.runs_dir) / config.name
        if config.stage in ("identify", "all"):
            identify(config, world, stop, folder / "stage1")
        if config.stage in ("create", "all"):
            create_files(config, folder / "stage1")
        if config.stage in ("train", "all"):
            runtime.set_threads(config.threads)
            train(config, world, stop, folder)


def network(config: Config, stage: str, outputs: int, device: torch.device) -> VideoNetwork:
    """Builds a fresh network whose weights are a function of seed and stage."""
    torch.manual_seed(runtime.derive(config.seed, "yt8m", stage, "weights"))
    return VideoNetwork(outputs, 0.3 if config.dropout == "active" else 0.0).to(device)


def shards(config: Config, flag: str) -> list[Path]:
    """The files that a flag names."""
    return data.shards(getattr(config, flag.replace("-", "_")), flag)


def digests(config: Config, *flags: str) -> dict[str, str]:
    """sha256 over names and contents of the shards that each flag names."""
    paths_by_flag = {flag: shards(config, flag) for flag in flags}
    return {
        flag: content_digest(paths, Path(os.path.commonpath([path.parent for path in paths])), Path(config.data_dir))
        for flag, paths in paths_by_flag.items()
    }


def is_finished(opened: Run, config: Config, *flags: str) -> bool:
    """Whether a stage has finished on the shards that these flags name; refuses others."""
    paths: list[Path] = []
    for flag in flags:
        with contextlib.suppress(UserError):  # a finished stage does not need its shards any more
            paths += shards(config, flag)
    return run_data.is_finished(opened, Seen("", fingerprint(paths)), lambda: digests(config, *flags))


def run_flags(config: Config, folder: Path) -> dict[str, Any]:
    """The part of the configuration that decides what a stage computes; its run folder belongs to it.

    Flags that decide nothing in this stage have the values of the run in the folder, if there is one.
    """
    left_out = ("stage", "trust_pickle", "num_parallel_calls")
    values = {name: value for name, value in as_dict(config).items() if name not in left_out}
    free = DECIDE_NOTHING | (STAGE2_ONLY if folder.name == "stage1" else frozenset())
    if (folder / "config.json").exists() and not config.overwrite:
        before = read_json(folder / "config.json", "")
        values |= {name: before[name] for name in free & before.keys()}
    return values


def record_of(
    config: Config, world: World, training: Training, folder: Path, metrics: dict[str, float], **fields: Any
) -> Record:
    """Builds a record from what both stages share and the stage's own fields.

    Args:
      config: the resolved flags.
      world: this process and its device.
      training: the finished training.
      folder: the stage's run folder, in which `is_finished` has stored the digests of the data.
      metrics: name -> value after the last step.
      **fields: other fields of the record.
    """
    return make_record(
        paper="subclass",
        row=config.row,
        seed=config.seed,
        argv=[sys.argv[0], *config.argv],
        config=as_dict(config),
        metrics={name: {"last": value} for name, value in metrics.items()},
        seconds=training.seconds,
        images_per_s=training.images_per_s,
        data=read_json(folder / run_data.FILE, "digests")["digests"],
        data_verified=False,
        deviations=active(config, VIDEOS),
        versions=versions_of("torch", "numpy", "scikit-learn"),
        deterministic=world.device.type == "cpu",
        precision=runtime.precision(world.device, config.amp),
        gpu=runtime.device_name(world.device),
        **fields,
    )


def identify(config: Config, world: World, stop: Stop, folder: Path) -> None:
    """Stage 1: one pass of the plain network, neglection degree with several labels per video."""
    with open_run(folder, run_flags(config, folder), config.overwrite) as opened:
        if is_finished(opened, config, PLAIN):
            return
        model = network(config, "stage1", config.num_classes, world.device)
        classes = torch.arange(config.num_classes, device=world.device)
        plain = functools.partial(losses.multilabel_loss, subclass2class=classes, weight=0.0)
        once = dataclasses.replace(config, num_epochs=1)
        training = train_stage(once, "stage1", model, shards(config, PLAIN), plain, world, stop, folder, observe=True)
        degrees, skipped = training.state["degrees"], training.state["skipped"]
        theta, order = neglect.ranking(degrees)
        content = {"degrees": degrees, "theta": theta, "ranking": order, "skipped": skipped}
        write_json(folder / "neglected.json", content)
        warn_of_unmeasured(theta, order[: config.num_neglected])
        if skipped:  # DEVIATION SDN-D08: non-finite degrees are reported
            print(f"stage1: {skipped} non-finite neglection degrees were left out")
        print(f"stage1: neglected classes: {order[: config.num_neglected][:10]} ...", flush=True)
        record = record_of(
            config,
            world,
            training,
            folder,
            {"identify_loss": float(training.state["loss"])},
            stage="stage1",
            details={"theta": theta, "ranking": order[:200], "stage1_skipped": skipped},
            artefacts=[{"kind": "json", "path": "neglected.json", "title": "Neglection degrees of YouTube-8M"}],
        )
        opened.finish(record)


def create_files(config: Config, folder: Path) -> None:
    """Writes the subclass training files from the classes that stage 1 found, unless they are there."""
    source = folder / "neglected.json"
    if not source.exists():
        command = identify_command("notebook_yt8m.py", config.argv)
        raise UserError(f"{shown(folder)}: stage 1 has not finished there; run: {command}")
    neglected = read_json(source, "ranking")["ranking"][: config.num_neglected]
    paths = shards(config, PLAIN)
    if not config.overwrite and create.is_finished(paths, neglected, config):
        print(f"create: {shown(create.map_of(config))}: finished before; --overwrite writes the files again")
        return
    run_data.check_data(folder, digests(config, PLAIN), "run --stage identify --overwrite")
    count = create.create(paths, neglected, config)
    words = f"{count:,} records with {len(neglected)} classes in two subclasses each"
    print(f"create: {words}, map {shown(create.map_of(config))}", flush=True)


def train(config: Config, world: World, stop: Stop, folder: Path) -> None:
    """Trains on files with subclass labels and scores on the validation files."""
    classes, outputs = config.num_classes, config.num_subclasses
    with open_run(folder, run_flags(config, folder), config.overwrite) as opened:
        if is_finished(opened, config, TRAIN, EVAL):
            return
        paths, checks = shards(config, TRAIN), shards(config, EVAL)
        mapping = create.read_map(create.map_of(config), classes, outputs, config.trust_pickle)
        subclass2class = torch.from_numpy(mapping).to(world.device)
        weight = config.subclass_label_weight if config.label_loss == "subclass" else 0.0
        criterion = functools.partial(losses.multilabel_loss, subclass2class=subclass2class, weight=weight)
        model = network(config, "stage2", outputs, world.device)
        print(
            f"yt8m: {len(paths)} training and {len(checks)} validation files, {outputs} outputs, device {world.device}"
        )
        training = train_stage(config, "stage2", model, paths, criterion, world, stop, folder, observe=False)
        scores = score(model, checks, subclass2class, config, world)
        print_scores(scores)
        step = training.step
        content = {
            "state_dict": state_of(model),
            "subclass2class": subclass2class.cpu(),
            "scores": scores,
            "num_classes": classes,
            "step": step,
        }
        runtime.write_checkpoint(folder / "checkpoints" / f"model-{step}.pt", content)
        details = {"steps": step, "videos": training.images, "subclasses": outputs}
        metrics = {**scores, "loss": float(training.state["loss"])}
        opened.finish(
            record_of(config, world, training, folder, metrics, stage="stage2", details=details, artefacts=[])
        )


def print_scores(scores: dict[str, float]) -> None:
    """Prints the metrics in one line."""
    print(
        f"Hit@1: {scores['hit_at_1']:.3f} | PERR: {scores['perr']:.3f} | MAP: {scores['map']:.3f} | "
        f"GAP: {scores['gap']:.3f} | class loss: {scores['class_loss']:.3f}",
        flush=True,
    )


def score_checkpoint(config: Config, world: World) -> None:
    """--eval CHECKPOINT: prints the metrics, which must be the logged ones.

    Raises:
      UserError: bad checkpoint, or other metrics than the logged ones.
    """
    path = config.eval or ""
    content = runtime.read_checkpoint(Path(path), world.device)
    if not isinstance(content, dict) or not {"subclass2class", "scores", "num_classes"} <= content.keys():
        raise UserError(f"{shown(path)}: has no subclass map (subclass2class)")
    try:
        model = VideoNetwork(len(content["subclass2class"])).to(world.device)
        model.load_state_dict(content["state_dict"])
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{shown(path)}: weights do not fit ({first_line(error)})") from None
    settings = dataclasses.replace(config, num_classes=content["num_classes"])
    scores = score(model, shards(config, EVAL), content["subclass2class"], settings, world)
    print_scores(scores)
    if not are_logged(scores, content["scores"], world.device.type):
        print(f"differs from the logged {content['scores']}", flush=True)
        raise UserError("--eval: other files, flags, device or library than the run's; see its record.json")
    print("equal to the logged scores" + " up to rounding" * (scores != content["scores"]))


def are_logged(scores: Mapping[str, float], logged: Mapping[str, float], device: str) -> bool:
    """Whether scores are the logged ones: bit for bit on a CPU; a GPU may choose other kernels in every process."""
    if device == "cpu":
        return scores == logged
    return scores.keys() == logged.keys() and all(
        math.isclose(score, logged[name], rel_tol=GPU_ROUNDING) for name, score in scores.items()
    )
