"""The training loop of every variant of the network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hierarchy_cnn_torch.data.images import Augment, Data, prepared
from hierarchy_cnn_torch.flags import Config, keep_epochs, parse_numbers
from hierarchy_cnn_torch.method.branches import Branches, gradient_norms, loss_weights, total_loss
from hierarchy_cnn_torch.networks.alexnet import Network
from hierarchy_cnn_torch.training.evaluate import evaluate_epoch, layout
from hierarchy_cnn_torch.training.optimizer import learning_rate, optimizer_of, share_gradients
from hierarchy_cnn_torch.training.state import keep_best, keep_weights
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.loop import Training, epoch_ends
from reproduction.runtime.run_folder import Stop
from reproduction.runtime.torch_runtime import World
from reproduction.runtime.torch_states import States

SPLITS = ("train", "val", "test")


def run(
    config: Config, network: Network, data: Data, branches: Branches, world: World, stop: Stop, folder: Path
) -> Training:
    """Trains a network to its end, from its newest checkpoint if there is one.

    Args:
      config: resolved flags.
      network: on the device, trained in place.
      data: images in their splits.
      branches: what the heads of the network fit.
      world: the processes that train together.
      stop: set by SIGINT or SIGTERM.
      folder: run folder, written by rank 0.
    Returns:
      The training: `history`, one dict an epoch; in `state`, `gradients` (float32 [steps, 2 x layers] an epoch) and
      `curve` (int32 predictions an epoch).
    Raises:
      UserError: non-finite loss, with step and last checkpoint.
    """
    device, size = world.device, config.batch
    optimizer = optimizer_of(network, config)
    if config.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.from_numpy(np.array(data.images[data.train])).to(device)
    labels = torch.from_numpy(data.labels[data.train]).to(device)
    labels_of_branch = [torch.from_numpy(table).to(device) for table in branches.labels]
    mean, sd = data.mean.to(device), data.sd.to(device)
    steps = math.ceil(len(labels) / size)
    states = States(folder, world, {"model": network, "optimizer": optimizer})
    first_state: dict[str, Any] = {"norms": [], "gradients": [], "curve": []}
    ends, due = epoch_ends(steps, config.epochs, config.max_steps), config.checkpoint_steps
    training = Training(config.arm, folder, ends, size, states, stop, state=first_state, checkpoint_steps=due)
    net = torch.compile(network) if config.compile else network
    epochs_to_keep = keep_epochs(config.keep_epochs, config.epochs)
    if world.rank == 0 and not training.resumed and 0 in epochs_to_keep:
        keep_weights(folder, network, 0)
    switch = parse_numbers("--bt-switch", config.bt_switch)
    write_best(training, network, world)
    for epoch in training.epochs():
        weights = loss_weights(config.schedule, len(branches.taps), config.lambda_, epoch, config.epochs, switch)
        order = torch.randperm(len(labels), generator=runtime.generator(config.seed, "order", epoch)).to(device)
        augment = Augment(config.seed, epoch, len(labels), device) if config.augment == "crop_flip" else None
        network.train()
        for batch in training.batches(order):
            rate = learning_rate(config, epoch, training.step, config.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            here = batch[world.rank :: world.size]
            x = augment(images[here], here) if augment else images[here]
            x = layout(prepared(x, mean, sd, config.image_size), config)
            # dropout's draws: a function of (seed, epoch, step), the same for the trunk of every variant
            torch.manual_seed(runtime.derive(config.seed, "dropout", epoch, training.step_in_epoch, world.rank))
            # DEVIATION HCN-D11: float32, not compiled, in the images' own memory format, unless a flag asks for speed
            with runtime.autocast(device, config.amp):
                logits, heads = net(x)
            logits, branch_logits = logits.float(), [heads[tap].float() for tap in branches.taps]
            loss = total_loss(logits, branch_logits, labels[here], labels_of_branch, weights, config.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            (loss / len(batch)).backward()
            share_gradients(network, world)
            training.state["norms"].append(gradient_norms(network, network.names).flatten())
            optimizer.step()
            training.log(loss / len(batch), total=loss, right=(logits.argmax(1) == labels[here]).sum())
        training.state["gradients"].append(torch.stack(training.state["norms"]).cpu())
        training.state["norms"] = []
        runtime.share_statistics(network, world)
        accuracies, predicted = evaluate_epoch(config, network, data, world)
        training.state["curve"] += predicted
        count = min(training.step_in_epoch * size, len(labels))
        sums, norms = states.total(training.sums), training.state["gradients"][-1].double().numpy()
        row = {"train/loss": float(sums["total"]) / count, "train/accuracy": float(sums["right"]) / count, "lr": rate}
        row |= accuracies | {f"gradient/{name}": float(norms[:, at].mean()) for at, name in enumerate(network.names)}
        # the best epoch: the first with the largest accuracy on the held-out part
        best = not config.train_held_out and all(
            row["val/accuracy"] > earlier["val/accuracy"] for earlier in training.history
        )
        if world.rank == 0:  # before the state: after a kill in between the epoch is run again
            if epoch + 1 in epochs_to_keep or training.step == ends[-1]:
                keep_weights(folder, network, epoch + 1)
            report_epoch(training, config, row)
        training.end_epoch(row | {"best": best})
        write_best(training, network, world)
    return training


def write_best(training: Training, network: Network, world: World) -> None:
    """Writes the network of the best epoch if that epoch has just ended, after its state or restored from it.

    So the file is never newer than the state: a GPU that repeats an epoch after a kill may find another accuracy.
    """
    ended = training.history and not training.step_in_epoch
    if ended and training.history[-1].get("best") and world.rank == 0:
        keep_best(training.folder, network)


def report_epoch(training: Training, config: Config, row: dict[str, float]) -> None:
    """Writes the numbers of an epoch to metrics.jsonl and TensorBoard, and prints the accuracies."""
    assert training.metrics is not None
    training.metrics.write(training.epoch + 1, row)
    accuracies = [f", {part} {row[f'{part}/accuracy']:.4f}" for part in SPLITS if f"{part}/accuracy" in row]
    start = f"{config.arm} epoch {training.epoch + 1}/{config.epochs}: loss {row['train/loss']:.3f}"
    print(start + "".join(accuracies), flush=True)
