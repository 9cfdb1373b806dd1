"""The stages of the YouTube-8M pipeline: find neglected classes, write subclass files, train and score."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from datasets.identity import Seen, content_digest, fingerprint
from reproduction.runtime import run_data
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.record import Record, make_record, versions_of
from reproduction.runtime.run_folder import (
    MetricsLog,
    Run,
    Stop,
    UserError,
    open_run,
    read_json,
    shown,
    stop_signals,
    write_json,
)
from reproduction.runtime.torch_runtime import World
from subclass_torch.deviations import VIDEOS, active
from subclass_torch.method import losses, neglect
from subclass_torch.networks import build as models
from subclass_torch.training import evaluate
from subclass_torch.yt8m import create as yt8m_create
from subclass_torch.yt8m import data as yt8m_data
from subclass_torch.yt8m import metrics as yt8m_metrics
from subclass_torch.yt8m.model import VideoNetwork, network_input

LOG_EVERY = 100
ADAM_BETAS = (0.9, 0.999)
PLAIN = "plain-data-pattern-glob"
_CHUNK = 256  # classes whose gradient sums are in memory at a time: 38 MB a matrix


def run(config: dict[str, Any]) -> None:
    """The whole of notebook_yt8m.py after its flags are resolved."""
    for name in config["ignored"]:
        print(f"--{name} has no effect, as in the released script")  # DEVIATION SDN-Y10: accepted, with a line
    runtime.start(config["seed"], config["threads"])
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("notebook_yt8m.py runs in one process; torchrun is for notebook.py")
    with runtime.open_world(config["device"]) as world, stop_signals() as stop:
        if config["eval"]:
            _score_checkpoint(config, world)
            return
        folder = Path(config["runs_dir"]) / config["name"]
        if config["stage"] in ("identify", "all"):
            _identify(config, world, stop, folder / "stage1")
        if config["stage"] in ("create", "all"):
            _create(config, folder / "stage1")
        if config["stage"] in ("train", "all"):
            runtime.set_threads(config["threads"])
            _train(config, world, stop, folder)


def rate_at(step: int, config: dict[str, Any]) -> float:
    """Staircase decay: base * decay^floor(step * batch / decay_examples) [authors' subclasscnn.py]."""
    stairs = math.floor(step * config["batch_size"] / config["learning_rate_decay_examples"])
    return config["base_learning_rate"] * config["learning_rate_decay"] ** stairs


def epsilon_at(step: int) -> float:
    """The epsilon with which torch.optim.Adam makes the update number `step` (from 0) as TensorFlow 1's Adam does.

    TensorFlow 1 adds 1e-8 to the square root of the uncorrected second moment v, PyTorch to that of v / (1 - b2^t):
    with t = step + 1,  lr sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + 1e-8)  is PyTorch's update with this epsilon.
    Source: tf.train.AdamOptimizer of TensorFlow 1.13, the default epsilon of which the authors keep.
    """
    return 1e-8 / math.sqrt(1 - ADAM_BETAS[1] ** (step + 1))


def _network(config: dict[str, Any], stage: str, outputs: int, device: torch.device) -> VideoNetwork:
    torch.manual_seed(runtime.derive(config["seed"], "yt8m", stage, "weights"))
    return VideoNetwork(outputs, 0.3 if config["dropout"] == "active" else 0.0).to(device)


def train_stage(
    config: dict[str, Any], stage: str, model: VideoNetwork, paths: list[Path],
    criterion: Callable[[Tensor, Tensor], Tensor], world: World, stop: Stop, folder: Path, observe: bool,
) -> dict[str, Any]:  # fmt: skip
    """Trains for the given epochs over a stream of videos, from the newest checkpoint where there is one.

    Args:
      criterion: (logits [B, S], indicator [B, S]) -> float32 [B]. observe: measure the neglection degree.
    Returns:
      State: step (global), epoch, in_epoch (batches done), degrees [E][S], loss (last), seconds, videos.
    Raises:
      UserError: broken records (naming file and record), non-finite loss.
    """
    outputs, device, seed = model.dense.out_features, world.device, config["seed"]
    optimizer = torch.optim.Adam(model.parameters(), lr=config["base_learning_rate"], betas=ADAM_BETAS)
    net: nn.Module = torch.compile(model) if config["compile"] else model  # type: ignore[assignment]
    totals = neglect.new_totals(outputs, device)
    state: dict[str, Any] = {
        "step": 0,
        "epoch": 0,
        "in_epoch": 0,
        "degrees": [],
        "loss": 0.0,
        "seconds": 0.0,
        "videos": 0,
    }
    saved = runtime.load_state(folder / "checkpoints", device, (*state, "model", "optimizer", "totals"))
    if saved is not None:
        model.load_state_dict(saved.pop("model"))
        optimizer.load_state_dict(saved.pop("optimizer"))
        totals, state = saved.pop("totals"), saved
        print(f"{stage}: going on after step {state['step']}", flush=True)
    log = MetricsLog(folder, resume_step=state["step"] if saved else -1)
    began = time.monotonic() - state["seconds"]

    def save() -> None:
        state["seconds"] = time.monotonic() - began
        content = {**state, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "totals": totals}
        runtime.save_state(folder / "checkpoints", state["step"], content)

    limit = config["max_steps"]
    model.train()
    while state["epoch"] < config["num_epochs"] and state["step"] < limit:
        stream = yt8m_data.batches(
            paths, config["batch_size"], outputs, seed, state["epoch"], config["shuffle_data"],
            config["shuffle_buffer_size"], skip=state["in_epoch"], ahead=config["num_parallel_calls"],
        )  # fmt: skip
        bar = tqdm(stream, desc=f"{stage} {state['epoch'] + 1}/{config['num_epochs']}", unit="batch", disable=None,
                   leave=False, initial=state["in_epoch"])  # fmt: skip
        with neglect.watch(model.penultim_layer) as seen:
            for videos in bar:
                step = state["step"]
                for group in optimizer.param_groups:
                    group["lr"], group["eps"] = rate_at(step, config), epsilon_at(step)
                features = torch.from_numpy(videos.features).to(device)
                noise = torch.randn(features.shape, generator=runtime.generator(seed, "yt8m", stage, "noise", step))
                truth = torch.from_numpy(yt8m_data.indicator(videos.labels, outputs)).to(device)
                torch.manual_seed(runtime.derive(seed, "yt8m", stage, "dropout", step))
                with runtime.autocast(device, config["amp"]):
                    logits = net(network_input(features, noise.to(device)))
                entropy = criterion(logits, truth).mean()
                loss = entropy + model.penalty() if config["l2"] == "declared" else entropy
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                if observe:
                    r, count = neglect.batch_degree(seen[0], logits, truth, chunk=_CHUNK)
                    neglect.add_batch(totals, r, count, len(features))
                state |= {
                    "step": step + 1,
                    "in_epoch": state["in_epoch"] + 1,
                    "videos": state["videos"] + len(features),
                }
                last = state["step"] >= limit
                if (
                    last
                    or stop.requested
                    or state["step"] % min(LOG_EVERY, config["checkpoint_steps"]) == 0
                    or device.type == "cpu"
                ):
                    state["loss"] = float(entropy.detach())
                    bad = torch.tensor(-1 if math.isfinite(state["loss"]) else step)
                    runtime.check_finite(bad, stage, len(features), folder / "checkpoints")
                if state["step"] == 20 and not last:
                    whole = config["num_train_observations"] * config["num_epochs"] / (20 * config["batch_size"])
                    print(
                        f"{stage}: about {(time.monotonic() - began) * whole / 3600:.1f} h for all epochs", flush=True
                    )
                if state["step"] % LOG_EVERY == 0 or last:
                    log.write(state["step"], {"loss": state["loss"], "lr": rate_at(step, config)})
                if last:
                    break  # saved below, with its epoch closed: a state from before that would never close it
                if stop.requested or state["step"] % config["checkpoint_steps"] == 0:
                    save()
                if stop.requested:
                    stop.leave(folder)
        stream.close()  # type: ignore[attr-defined]
        if observe:
            state["degrees"].append(neglect.close_epoch(totals)[0])
            for total in totals.values():
                total.zero_()
        state |= {"epoch": state["epoch"] + 1, "in_epoch": 0}
        save()
    log.close()
    return state


def score(
    model: nn.Module, paths: list[Path], subclass2class: Tensor, config: dict[str, Any], world: World
) -> dict[str, float]:
    """Hit@1, PERR, MAP, GAP on class scores after the maximum over subclasses, and the loss on these scores."""
    classes = config["num_classes"]
    metrics = yt8m_metrics.Metrics(classes, config["top_k"])
    loss = 0.0
    model.eval()
    with torch.no_grad():
        for videos in yt8m_data.batches(paths, config["batch_size"], classes, ahead=config["num_parallel_calls"]):
            features = torch.from_numpy(videos.features).to(world.device)
            with runtime.autocast(world.device, config["amp"]):
                logits = model(network_input(features))
            scores = evaluate.class_scores(torch.sigmoid(logits.float()), subclass2class, classes)
            truth = yt8m_data.indicator(videos.labels, classes)
            y = torch.from_numpy(truth).to(world.device)
            # DEVIATION SDN-Y07: loss of class scores, not of subclass outputs against class labels
            entropy = -(y * torch.log(scores + losses.EPS) + (1 - y) * torch.log(1 - scores + losses.EPS))
            loss += float(entropy.sum())
            metrics.add(scores.cpu().numpy(), truth)
    return {**metrics.result(), "class_loss": loss / metrics.videos}


def _print_scores(scores: dict[str, float]) -> None:
    print(
        f"Hit@1: {scores['hit_at_1']:.3f} | PERR: {scores['perr']:.3f} | MAP: {scores['map']:.3f} | "
        f"GAP: {scores['gap']:.3f} | class loss: {scores['class_loss']:.3f}",
        flush=True,
    )


def _record(config: dict[str, Any], world: World, stage: str, state: dict[str, Any], metrics: dict[str, float],
            details: dict[str, Any], artefacts: list[dict[str, str]]) -> Record:  # fmt: skip
    return make_record(
        paper="subclass", row=config["row"], stage=stage, seed=config["seed"], argv=config["argv"], config=config,
        metrics={name: {"last": value} for name, value in metrics.items()}, seconds=state["seconds"],
        images_per_s=state["videos"] / state["seconds"] if state["seconds"] else None,
        data={}, data_verified=False, deviations=active(config, VIDEOS), artefacts=artefacts, details=details,
        versions=versions_of("torch", "numpy", "scikit-learn"), deterministic=world.device.type == "cpu",
        precision="bfloat16 autocast" if config["amp"] else "float32", gpu=runtime.device_name(world.device),
    )  # fmt: skip


def _run_config(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in ("stage", "trust_pickle", "num_parallel_calls")}


def _digests(config: dict[str, Any], *flags: str) -> dict[str, str]:
    """sha256 over names and contents of the shards that each flag names."""
    found = {flag: yt8m_data.shards(config[flag.replace("-", "_")], flag) for flag in flags}
    return {
        flag: content_digest(paths, Path(os.path.commonpath([path.parent for path in paths])), Path(config["data_dir"]))
        for flag, paths in found.items()
    }


def _is_finished(opened: Run, config: dict[str, Any], *flags: str) -> bool:
    """Whether a stage has finished on the shards that these flags name; refuses others."""
    shards: list[Path] = []
    for flag in flags:
        with contextlib.suppress(UserError):  # a finished stage does not need its shards any more
            shards += yt8m_data.shards(config[flag.replace("-", "_")], flag)
    return run_data.is_finished(opened, Seen("", fingerprint(shards)), lambda: _digests(config, *flags))


def _identify(config: dict[str, Any], world: World, stop: Stop, folder: Path) -> None:
    """Stage 1: one pass of the plain network, neglection degree with several labels per video."""
    with open_run(folder, _run_config(config), config["overwrite"]) as opened:
        if _is_finished(opened, config, PLAIN):
            return
        paths = yt8m_data.shards(config["plain_data_pattern_glob"], PLAIN)
        model = _network(config, "stage1", config["num_classes"], world.device)

        def plain(logits: Tensor, truth: Tensor) -> Tensor:
            return losses.multilabel_loss(logits, truth, torch.arange(logits.shape[1], device=logits.device), 0.0)

        stage1 = {**config, "num_epochs": 1}
        state = train_stage(stage1, "stage1", model, paths, plain, world, stop, folder, observe=True)
        theta, order = neglect.ranking(state["degrees"])
        write_json(folder / "neglected.json", {"degrees": state["degrees"], "theta": theta, "ranking": order})
        neglect.warn_of_unmeasured(theta, order[: config["num_neglected"]])
        print(f"stage1: neglected classes: {order[: config['num_neglected']][:10]} ...", flush=True)
        details = {"theta": theta, "ranking": order[:200]}
        artefacts = [{"kind": "json", "path": "neglected.json", "title": "Neglection degrees of YouTube-8M"}]
        opened.finish(_record(config, world, "stage1", state, {"identify_loss": state["loss"]}, details, artefacts))


def _create(config: dict[str, Any], folder: Path) -> None:
    """Writes the subclass training files from the classes that stage 1 found."""
    source = folder / "neglected.json"
    if not source.exists():
        raise UserError(
            f"{shown(folder)}: stage 1 has not finished there; run: "
            "python subclass_torch/notebook_yt8m.py --stage identify"
        )
    neglected = read_json(source, "ranking")["ranking"][: config["num_neglected"]]
    run_data.check_data(folder, _digests(config, PLAIN), "run --stage identify --overwrite")
    paths = yt8m_data.shards(config["plain_data_pattern_glob"], PLAIN)
    count = yt8m_create.create(paths, neglected, config)
    print(f"create: {count:,} records with {len(neglected)} classes in two subclasses each", flush=True)


def _train(config: dict[str, Any], world: World, stop: Stop, folder: Path) -> None:
    """Trains on files with subclass labels and scores on the validation files."""
    classes, outputs = config["num_classes"], config["num_subclasses"]
    with open_run(folder, _run_config(config), config["overwrite"]) as opened:
        if _is_finished(opened, config, "train_data_pattern_glob", "eval_data_pattern_glob"):
            return
        paths = yt8m_data.shards(config["train_data_pattern_glob"], "train_data_pattern_glob")
        checks = yt8m_data.shards(config["eval_data_pattern_glob"], "eval_data_pattern_glob")
        source = Path(config["subclass_labelling_data_save_fname"].replace("\\", "/"))
        mapping = yt8m_create.read_map(source, classes, outputs, config["trust_pickle"])
        subclass2class = torch.from_numpy(mapping).to(world.device)
        weight = config["subclass_label_weight"] if config["label_loss"] == "subclass" else 0.0

        def criterion(logits: Tensor, truth: Tensor) -> Tensor:
            return losses.multilabel_loss(logits, truth, subclass2class, weight)

        model = _network(config, "stage2", outputs, world.device)
        print(
            f"yt8m: {len(paths)} training and {len(checks)} validation files, {outputs} outputs, device {world.device}"
        )
        state = train_stage(config, "stage2", model, paths, criterion, world, stop, folder, observe=False)
        scores = score(model, checks, subclass2class, config, world)
        _print_scores(scores)
        content = {
            "state_dict": models.state_of(model), "subclass2class": subclass2class.cpu(), "scores": scores,
            "num_classes": classes, "step": state["step"],
        }  # fmt: skip
        runtime.write_checkpoint(folder / "checkpoints" / f"model-{state['step']}.pt", content)
        details = {"steps": state["step"], "videos": state["videos"], "subclasses": outputs}
        opened.finish(_record(config, world, "stage2", state, {**scores, "loss": state["loss"]}, details, []))


def _score_checkpoint(config: dict[str, Any], world: World) -> None:
    """--eval CHECKPOINT: the metrics, which must be the logged ones."""
    content = runtime.read_checkpoint(Path(config["eval"]), world.device)
    if not isinstance(content, dict) or not {"subclass2class", "scores", "num_classes"} <= content.keys():
        raise UserError(f"{shown(config['eval'])}: has no subclass map (subclass2class)")
    try:
        model = VideoNetwork(len(content["subclass2class"])).to(world.device)
        model.load_state_dict(content["state_dict"])
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{shown(config['eval'])}: weights do not fit ({str(error).splitlines()[0][:160]})") from None
    checks = yt8m_data.shards(config["eval_data_pattern_glob"], "eval_data_pattern_glob")
    scores = score(model, checks, content["subclass2class"], {**config, "num_classes": content["num_classes"]}, world)
    _print_scores(scores)
    print(
        "equal to the logged scores" if scores == content["scores"] else f"differs from the logged {content['scores']}"
    )
