"""The training loop of every arm."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hierarchy_cnn_torch import flags
from hierarchy_cnn_torch.data import images
from hierarchy_cnn_torch.data.images import Data
from hierarchy_cnn_torch.method.branches import Branches, gradient_norms, loss_weights, total_loss
from hierarchy_cnn_torch.networks.alexnet import Network
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.run_folder import MetricsLog, Stop, shown
from reproduction.runtime.torch_runtime import World

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
EVAL_BATCH = 500


def learning_rate(config: Mapping[str, Any], epoch: int) -> float:
    """Two drops by ten, after 60 and 85 % of the epochs. The epoch counts from 0."""
    # DEVIATION HCN-D05: optimiser and schedule of the paper unknown; AlexNet's habit
    done = epoch / config["epochs"]
    return config["lr"] * 0.1 ** ((done >= 0.6) + (done >= 0.85))


def tensor_of(array: np.ndarray, index: np.ndarray, device: torch.device) -> Tensor:
    """Rows of an image array on the device, uint8."""
    return torch.from_numpy(np.array(array[index])).to(device)


def layout(x: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Channels-last where asked for."""
    return x.contiguous(memory_format=torch.channels_last) if config["channels_last"] else x


@torch.inference_mode()
def scores_of(
    network: torch.nn.Module, pixels: np.ndarray, data: Data, config: Mapping[str, Any], world: World
) -> tuple[Tensor, list[Tensor]]:
    """Class logits [N, K] and branch logits [N, n_l] of uint8 images, on the CPU; processes share the work."""
    network.eval()
    mean, sd = data.mean.to(world.device), data.sd.to(world.device)
    parts: list[tuple[int, int, Tensor, dict[str, Tensor]]] = []
    starts = range(0, len(pixels), EVAL_BATCH)
    for start in list(starts)[world.rank :: world.size]:
        batch = torch.from_numpy(np.array(pixels[start : start + EVAL_BATCH])).to(world.device)
        x = layout(images.prepared(batch, mean, sd, config["image_size"]), config)
        with runtime.autocast(world.device, config["amp"]):
            logits, branch = network(x)
        parts.append((start, start + len(batch), logits.float(), {k: v.float() for k, v in branch.items()}))
    widths = [parts[0][2].shape[1], *(v.shape[1] for v in parts[0][3].values())] if parts else []
    if world.size > 1:
        table = torch.tensor([*widths, *[0] * (8 - len(widths))], device=world.device)
        torch.distributed.broadcast(table, 0)
        widths = [int(w) for w in table if w]
    out = [torch.zeros(len(pixels), width, device=world.device) for width in widths]
    for start, end, logits, branch in parts:
        for target, value in zip(out, [logits, *branch.values()], strict=True):
            target[start:end] = value
    runtime.reduce_sum(world, *out)
    return out[0].cpu(), [value.cpu() for value in out[1:]]


def share_gradients(network: torch.nn.Module, world: World) -> None:
    """Sums the gradients of all processes; each has divided its loss by the whole batch."""
    if world.size == 1:
        return
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    runtime.reduce_sum(world, flat)
    for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))


def share_statistics(network: torch.nn.Module, world: World) -> None:
    """Gives all processes the running statistics of process 0, those of the checkpoint, to evaluate with (--bn)."""
    if world.size > 1:
        for value in network.buffers():
            torch.distributed.broadcast(value, 0)


def new_progress() -> dict[str, Any]:
    """Position and history of a run, as it stands in the checkpoint."""
    return {"epoch": 0, "step": 0, "history": [], "gradients": [], "curve": [], "sums": [0.0, 0.0, 0.0], "seconds": 0.0}


def save(folder: Path, network: Network, optimizer: torch.optim.Optimizer, p: dict[str, Any], at: int) -> None:
    """Full state; everything random is a function of (seed, epoch, step), so no generator needs storing."""
    state = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "progress": p}
    runtime.save_state(folder / "checkpoints", at, state)


def keep_weights(folder: Path, network: Network, epoch: int, world: World) -> None:
    """Weights of an epoch that the analysis looks at."""
    if world.rank == 0:
        state = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        runtime.write_checkpoint(folder / "weights" / f"epoch-{epoch:04d}.pt", state)


def run(
    config: dict[str, Any], network: Network, data: Data, branches: Branches, world: World, stop: Stop, folder: Path
) -> dict[str, Any]:
    """Trains an arm to its end, from its newest checkpoint where there is one.

    Args:
      config: resolved flags.
      network: on the device, trained in place.
      branches: what its heads fit.
      folder: run folder, written by rank 0.
    Returns:
      The progress: `history` (one dict per epoch), `gradients` (per step), `curve` (predictions per epoch).
    Raises:
      UserError: non-finite loss, with step and last checkpoint.
    """
    device, seed, size = world.device, config["seed"], config["batch"]
    optimizer = torch.optim.SGD(network.parameters(), config["lr"], MOMENTUM, weight_decay=WEIGHT_DECAY)
    if config["channels_last"]:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    p = new_progress()
    state = runtime.load_state(folder / "checkpoints", device, ("model", "optimizer", "progress"))
    if state:
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        p = state["progress"]
        if world.rank == 0:
            print(f"{shown(folder)}: going on at epoch {p['epoch'] + 1}", flush=True)
    net = torch.compile(network) if config["compile"] else network
    kept = flags.keep_epochs(config["keep_epochs"], config["epochs"])
    train_images, train_labels = tensor_of(data.images, data.train, device), torch.from_numpy(data.labels[data.train])
    train_labels = train_labels.to(device)
    maps = [torch.from_numpy(table).to(device) for table in branches.labels]
    mean, sd = data.mean.to(device), data.sd.to(device)
    count = len(train_labels)
    steps = math.ceil(count / size)
    limit = min(config["max_steps"] or config["epochs"] * steps, config["epochs"] * steps)
    log = MetricsLog(folder, resume_step=p["epoch"] if state else -1) if world.rank == 0 else None
    names = network.names
    if not state and 0 in kept:
        keep_weights(folder, network, 0, world)
    given = flags.parse_numbers("--bt-switch", config["bt_switch"])
    while p["step"] or p["epoch"] * steps < limit:  # a state of the last step may be from before the end of its epoch
        epoch = p["epoch"]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch)
        weights = loss_weights(config["schedule"], len(branches.taps), config["lambda"], epoch, config["epochs"], given)
        order = torch.randperm(count, generator=runtime.generator(seed, "order", epoch))
        augment = images.Augment(seed, epoch, count) if config["augment"] == "crop_flip" else None
        began, last = time.monotonic(), min(steps, limit - epoch * steps)
        bar = tqdm(
            total=count, initial=p["step"] * size, desc=f"{config['arm']} {epoch + 1}/{config['epochs']}", unit="img",
            leave=False, disable=None if world.rank == 0 else True,
        )  # fmt: skip
        network.train()
        while p["step"] < last:
            batch = order[p["step"] * size : (p["step"] + 1) * size]
            mine = batch[world.rank :: world.size]
            here = mine.to(device)
            x = train_images[here]
            x = layout(images.prepared(augment(x, mine) if augment else x, mean, sd, config["image_size"]), config)
            # dropout's draws: a function of (seed, epoch, step), the same for the trunk of every arm
            torch.manual_seed(runtime.derive(seed, "dropout", epoch, p["step"], world.rank))
            optimizer.zero_grad(set_to_none=True)
            with runtime.autocast(device, config["amp"]):
                logits, heads = net(x)
            logits, branch_logits = logits.float(), [heads[tap].float() for tap in branches.taps]
            loss = total_loss(logits, branch_logits, train_labels[here], maps, weights)
            (loss / len(batch)).backward()
            share_gradients(network, world)
            norms = gradient_norms(network, names)
            optimizer.step()
            totals = torch.stack([loss.detach(), (logits.argmax(1) == train_labels[here]).sum().to(loss.dtype)])
            runtime.reduce_sum(world, totals)
            summed, right = totals.tolist()
            at = epoch * steps + p["step"]
            bad = torch.tensor(at if not math.isfinite(summed) else -1)
            runtime.check_finite(bad, f"{config['arm']}, epoch {epoch + 1}", len(batch), folder / "checkpoints")
            p["sums"] = [a + b for a, b in zip(p["sums"], (summed, right, float(len(batch))), strict=True)]
            p["gradients"].append(norms.flatten().tolist())
            p["step"] += 1
            bar.update(len(batch))
            bar.set_postfix(loss=f"{summed / len(batch):.3f}", refresh=False)
            due = bool(config["checkpoint_steps"]) and (at + 1) % config["checkpoint_steps"] == 0
            leaving = runtime.agreed(world, stop.requested)
            if (due or leaving) and p["step"] < steps and world.rank == 0:
                save(folder, network, optimizer, p, at + 1)
            if leaving and p["step"] < steps:
                stop.leave(folder)
        bar.close()
        close_epoch(config, network, data, p, began, world)
        if p["epoch"] in kept or p["epoch"] * steps >= limit:
            keep_weights(folder, network, p["epoch"], world)
        if log is not None:
            log.write(p["epoch"], {k: v for k, v in p["history"][-1].items() if isinstance(v, float)})
            if p["history"][-1].get("best"):  # before the state: after a kill in between the epoch is run again
                keep_best(folder, network)
            save(folder, network, optimizer, p, p["epoch"] * steps)
        if runtime.agreed(world, stop.requested) and p["epoch"] * steps < limit:
            stop.leave(folder)
    if log is not None:
        log.close()
    return p


def keep_best(folder: Path, network: Network) -> None:
    """Weights of the best epoch on the held-out part."""
    runtime.write_checkpoint(folder / "checkpoints" / "best.pt", network.state_dict())


def close_epoch(
    config: Mapping[str, Any], network: Network, data: Data, p: dict[str, Any], began: float, world: World
) -> None:
    """Evaluates after an epoch and appends to the history."""
    share_statistics(network, world)
    seconds = time.monotonic() - began
    loss, right, seen = p["sums"]
    watched = data.val if config["folds"] else data.val[: config["curve_images"] or len(data.val)]
    val, _ = scores_of(network, data.images[watched], data, config, world)
    row: dict[str, Any] = {
        "train/loss": loss / seen,
        "train/accuracy": right / seen,
        "val/accuracy": float((val.argmax(1).numpy() == data.labels[watched]).mean()),
        "lr": learning_rate(config, p["epoch"]),
    }
    if not config["folds"]:
        test, _ = scores_of(network, data.test_images[data.curve], data, config, world)
        predicted = test.argmax(1)
        row["test/accuracy"] = float((predicted.numpy() == data.test_labels[data.curve]).mean())
        p["curve"].append(predicted.to(torch.int32))
    row["best"] = all(row["val/accuracy"] > old["val/accuracy"] for old in p["history"])
    gradients = np.array(p["gradients"][-max(1, p["step"]) :])
    for at, name in enumerate(network.names):
        row[f"gradient/{name}"] = float(gradients[:, at].mean())
    p["history"].append(row)
    p["seconds"] += seconds
    p["epoch"] += 1
    p["step"], p["sums"] = 0, [0.0, 0.0, 0.0]
    if world.rank == 0:
        rate = seen / max(seconds, 1e-9)
        left = (config["epochs"] - p["epoch"]) * (p["seconds"] / p["epoch"])
        shown_test = f", test {row['test/accuracy']:.4f}" if "test/accuracy" in row else ""
        print(
            f"{config['arm']} epoch {p['epoch']}/{config['epochs']}: loss {row['train/loss']:.3f}, train "
            f"{row['train/accuracy']:.4f}, val {row['val/accuracy']:.4f}{shown_test}; {rate:.0f} images/s, "
            f"about {left:.0f} s of training left",
            flush=True,
        )


def log_softmax(values: Sequence[Tensor]) -> list[np.ndarray]:
    """Log-probabilities of logits, float64."""
    return [torch.log_softmax(value.double(), 1).numpy() for value in values]
