"""The training loop of a stage; stage 1, stage 2 and the plain network all run through it."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.arrays import confusion_counts
from reproduction.runtime.loop import Training
from reproduction.runtime.run_folder import Stop
from reproduction.runtime.torch_runtime import World
from reproduction.runtime.torch_states import States
from subclass_torch.data import augment
from subclass_torch.flags import Config
from subclass_torch.method import losses, neglect
from subclass_torch.training import record
from subclass_torch.training.chance import check_chance

SAVE_EVERY_S = 30.0  # at the end of an epoch a full state is written, but not more often than this


@dataclass(frozen=True)
class Task:
    """What a stage trains and tests.

    Attributes:
      stage: name in seeds and messages.
      images: uint8 [N, H, W, C], on the device.
      labels: int64 [N], the output of each image, on the device.
      test_images: uint8 [M, H, W, C].
      test_labels: int64 [M], classes.
      subclass2class: int64 [S], on the device.
      constants: mean and standard deviation, float32 [channels], on the device.
      criterion: (logits [B, S], labels [B]) -> float32 [B].
      epochs: E.
      lr_at: learning rate of an epoch, counted from 0.
      first_test: the epoch, counted from 1, from which on the test split is decided.
      observe: measure the neglection degree (labels are classes then).
      best_file: checkpoint of the best epoch; None writes none.
      facts: what that checkpoint contains in addition to weights, epoch and accuracy.
    """

    stage: str
    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    subclass2class: Tensor
    constants: tuple[Tensor, Tensor]
    criterion: Callable[[Tensor, Tensor], Tensor]
    epochs: int
    lr_at: Callable[[int], float]
    first_test: int
    observe: bool
    best_file: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def learning_rate(epoch: int, base: float, milestones: Sequence[int], gamma: float) -> float:
    """base * gamma^(number of milestones <= epoch), epoch counted from 0: the rate that is used is the one logged."""
    # DEVIATION SDN-D19: a function of the epoch, not a scheduler. DEVIATION SDN-D20: so no get_lr() is logged
    return base * gamma ** sum(milestone <= epoch for milestone in milestones)


def optimizer_of(model: nn.Module, lr: float) -> torch.optim.SGD:
    """SGD, Nesterov momentum 0.9, weight decay 5e-4 on everything [authors' notebook.py]."""
    return torch.optim.SGD(
        model.parameters(),
        lr=lr,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        fused=runtime.fused(model.parameters()),
    )


def run_stage(
    task: Task, config: Config, model: nn.Module, world: World, stop: Stop, folder: Path, log_csv: Path
) -> Training:
    """Trains a stage to its end, from its newest checkpoint if there is one.

    Args:
      task: what to train.
      config: the resolved flags.
      model: on the device, trained in place.
      world: the processes.
      stop: set by SIGINT or SIGTERM.
      folder: the stage's run folder, written by rank 0.
      log_csv: the authors' log file in it.
    Returns:
      The finished training; its `state` holds degrees t_i(e) [E][C], skipped degrees, best epoch and its accuracy.
    Raises:
      UserError: non-finite loss, or training accuracy at chance and --chance-epochs given.
    """
    optimizer = optimizer_of(model, task.lr_at(0))
    net: nn.Module = torch.compile(model) if config.compile else model  # type: ignore[assignment]
    if world.size > 1:
        on_gpu = world.device.type == "cuda"
        net = nn.parallel.DistributedDataParallel(net, device_ids=[world.device.index] if on_gpu else None)
    count, size, classes = len(task.images), config.batch_size, int(task.subclass2class.max()) + 1
    steps = math.ceil(count / size)
    if 0 < count % size < world.size:
        steps -= 1  # a last batch with fewer samples than processes is left out
    limit = min(config.max_steps or task.epochs * steps, task.epochs * steps)
    ends = [min(limit, end) for end in range(steps, limit + steps, steps)]
    states = States(folder, world, {"model": model, "optimizer": optimizer}, functools.partial(upgrade, ends=ends))
    training = Training(
        task.stage,
        folder,
        ends,
        size,
        states,
        stop,
        checkpoint_steps=config.checkpoint_steps,
        save_every_s=SAVE_EVERY_S,
        state={
            "totals": neglect.new_totals(classes, world.device),
            "degrees": [],
            "skipped": 0,
            "best_epoch": -1,
            "best_accuracy": -1.0,
        },
    )
    state, reduce = training.state, functools.partial(runtime.reduce_sum, world)
    for epoch in training.epochs():
        optimizer.param_groups[0]["lr"] = lr = task.lr_at(epoch)
        draw = functools.partial(runtime.generator, config.seed, task.stage)
        order = torch.randperm(count, generator=draw("order", epoch)).to(world.device)
        draws = augment.draw(count, task.images.shape[1], config.n_holes, draw("augment", epoch)).to(world.device)
        net.train()
        watch: contextlib.AbstractContextManager[list[Tensor]] = contextlib.nullcontext([])
        if task.observe:
            watch = neglect.watch(model.get_submodule("penultim_layer"))
        with watch as seen:
            for batch in training.batches(order):
                mine = batch[world.rank :: world.size]  # this process's share
                labels = task.labels[mine]
                images = augment.training_batch(
                    task.images[mine],
                    draws.of(mine),
                    *task.constants,
                    config.data_augmentation,
                    config.cutout,
                    config.length,
                )
                step = training.step - epoch * steps
                torch.manual_seed(runtime.derive(config.seed, task.stage, "dropout", epoch, step, world.rank))
                if config.schedule == "onecycle":
                    optimizer.param_groups[0]["lr"] = runtime.one_cycle(training.step, limit, config.learning_rate)
                # DEVIATION SDN-D28: float32 in torch's own memory format, not compiled, unless a flag asks for speed
                with runtime.autocast(world.device, config.amp):
                    logits = net(images if config.channels_last else images.contiguous())
                loss = task.criterion(logits, labels).sum() / len(batch)
                optimizer.zero_grad(set_to_none=True)
                (loss * world.size).backward()  # DDP averages over the processes
                optimizer.step()
                if task.observe:  # by the forward pass of the update, that is by the weights before it
                    r, positives = neglect.batch_degree(seen[0], logits, labels, reduce)
                    neglect.add_batch(state["totals"], r, positives, len(batch), config.neglect_weight == "sample")
                decided = logits.detach().argmax(1)
                class_right = task.subclass2class[decided] == task.subclass2class[labels]
                training.log(
                    loss,
                    loss_sum=loss.detach().double() * len(batch),
                    right=(decided == labels).sum(),
                    class_right=class_right.sum(),
                )
        if config.schedule == "onecycle":
            lr = runtime.one_cycle(training.step - 1, limit, config.learning_rate)  # the last one, for the log
        samples = min((training.step - epoch * steps) * size, count)
        # DEVIATION SDN-D16: means over all samples, not the batch size
        mean = {name: float(total) / samples for name, total in states.total(training.sums).items()}
        if task.observe:
            degrees, skipped = neglect.close_epoch(state["totals"], config.neglect_total == "compound")
            state["degrees"].append(degrees)
            state["skipped"] += skipped
            state["totals"] = neglect.new_totals(classes, world.device)
        began, accuracy = time.monotonic(), None
        if epoch + 1 >= task.first_test:
            matrix = confusion(
                model, task.test_images, task.test_labels, task.subclass2class, classes, task.constants, config, world
            )
            accuracy = record.accuracy(matrix)
            if accuracy > state["best_accuracy"]:
                # DEVIATION SDN-D21: the best epoch is chosen on the test split, so the last is reported too
                state["best_accuracy"], state["best_epoch"] = accuracy, epoch + 1
                if task.best_file and world.rank == 0:
                    record.write_network(task.best_file, model, task.facts, epoch + 1, accuracy)
        row = {
            "epoch": epoch + 1,
            "lr": lr,
            "trn_acc": mean["right"],
            "trn_class_acc": mean["class_right"],
            "loss": mean["loss_sum"],
            "seconds": training.seconds,
            "tst_acc": accuracy,
            "test_seconds": time.monotonic() - began,
        }
        # DEVIATION SDN-D18: class accuracy next to the subclass accuracy
        if training.metrics is not None:
            record.print_epoch(task.stage, task.epochs, row, samples)
        if epoch + 1 == config.chance_epochs:
            truth = task.subclass2class[task.labels]
            check_chance(task.stage, truth, classes, config, mean["class_right"], samples, world)
        if training.metrics is not None:
            training.metrics.write(epoch + 1, {name: value for name, value in row.items() if value is not None})
            record.write_csv(log_csv, [*training.history, row])
        training.end_epoch(row)
    return training


def confusion(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    subclass2class: Tensor,
    classes: int,
    constants: tuple[Tensor, Tensor],
    config: Config,
    world: World,
) -> np.ndarray:
    """Counts the decisions on a test split.

    Args:
      model: in any mode; left in evaluation mode.
      images: uint8 [M, H, W, C].
      labels: int64 [M], classes, on the CPU.
      subclass2class: int64 [S], on the device.
      classes: C.
      constants: mean and standard deviation, float32 [channels], on the device.
      config: batch_size, eval_batch, amp, channels_last.
      world: the processes.
    Returns:
      int64 [C, C], row = true class, column = decision.
    """
    decided = decisions(model, images, subclass2class, constants, config, world)
    return confusion_counts(labels.numpy(), decided.numpy(), classes)


@torch.no_grad()
def decisions(
    model: nn.Module,
    images: Tensor,
    subclass2class: Tensor,
    constants: tuple[Tensor, Tensor],
    config: Config,
    world: World,
) -> Tensor:
    """Returns the predicted class of each image, int64 [M], on the CPU; the batches are divided among the processes."""
    model.eval()
    decided = torch.zeros(len(images), dtype=torch.int64, device=world.device)
    batch = config.eval_batch or config.batch_size
    for at in range(world.rank * batch, len(images), world.size * batch):
        inputs = augment.normalize(images[at : at + batch].to(world.device), *constants)
        with runtime.autocast(world.device, config.amp):
            logits = model(inputs if config.channels_last else inputs.contiguous())
        decided[at : at + batch] = losses.decide(logits.float(), subclass2class)
    runtime.reduce_sum(world, decided)
    return decided.cpu()


def upgrade(state: dict[str, Any], ends: Sequence[int]) -> dict[str, Any]:
    """Turns a state from before the shared loop, with counters of its own, into today's.

    Args:
      state: as read from the file.
      ends: numbers of steps after which an epoch ends.
    """
    if "position" in state:
        return state
    names = ("totals", "degrees", "skipped", "best_epoch", "best_accuracy")
    epoch = state["epoch"]
    position = {
        "epoch": epoch,
        "step": (ends[epoch - 1] if epoch else 0) + state["step"],
        "history": state["history"],
        "seconds": state["seconds"],
        "sums": dict(zip(("loss_sum", "right", "class_right"), state["sums"], strict=True)),
        "state": {name: state[name] for name in names},
    }
    return {"model": state["model"], "optimizer": state["optimizer"], "position": position}
