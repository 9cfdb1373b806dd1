"""The training loop of a stage; stage 1, stage 2 and the baseline all run through it."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.run_folder import MetricsLog, Stop, UserError
from reproduction.runtime.torch_runtime import World
from subclass_torch.data import augment
from subclass_torch.method import neglect
from subclass_torch.training import progress
from subclass_torch.training.progress import Progress

SAVE_EVERY_S = 30.0  # at the end of an epoch a full state is written, but not more often than this


@dataclass(frozen=True)
class Task:
    """What a stage trains.

    Attributes:
      stage: name in seeds and messages. images, labels: uint8 [N, H, W, C], int64 [N] (outputs), on the device.
      subclass2class: int64 [S]. criterion: (logits [B, S], labels [B]) -> float32 [B].
      constants: mean and std, float32 [channels]. epochs: E. lr_at: learning rate of a 0-based epoch.
      observe: measure the neglection degree (labels are classes then).
      after_epoch: (epoch) -> test accuracy or None; sees the network in the state after that epoch.
    """

    stage: str
    images: Tensor
    labels: Tensor
    subclass2class: Tensor
    criterion: Callable[[Tensor, Tensor], Tensor]
    constants: tuple[Tensor, Tensor]
    epochs: int
    lr_at: Callable[[int], float]
    observe: bool
    after_epoch: Callable[[Progress], float | None]


def learning_rate(epoch: int, base: float, milestones: list[int], gamma: float) -> float:
    """base * gamma^(number of milestones <= epoch), epoch counted from 0: the rate that is used is the one logged."""
    # DEVIATION SDN-D19: a function of the epoch, not a scheduler. DEVIATION SDN-D20: so no get_lr() is logged
    return base * gamma ** sum(milestone <= epoch for milestone in milestones)


def optimizer_of(model: nn.Module, lr: float) -> torch.optim.SGD:
    """SGD, Nesterov momentum 0.9, weight decay 5e-4 on everything [authors' notebook.py]."""
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)


def run_stage(
    task: Task, config: dict[str, Any], model: nn.Module, world: World, stop: Stop, folder: Path, log_csv: Path
) -> Progress:
    """Trains a stage to its end, from its newest checkpoint where there is one.

    Args:
      task, config: what to train, and the resolved flags. model: on the device, trained in place.
      folder: the stage's run folder, written by rank 0. log_csv: the authors' log file in it.
    Raises:
      UserError: non-finite loss, or training accuracy at chance and --chance-epochs given.
    """
    optimizer = optimizer_of(model, task.lr_at(0))
    net: nn.Module = torch.compile(model) if config["compile"] else model  # type: ignore[assignment]
    if world.size > 1:
        net = nn.parallel.DistributedDataParallel(
            net, device_ids=[world.device.index] if world.device.type == "cuda" else None
        )
    p = progress.new(int(task.subclass2class.max()) + 1, world.device)
    count, size, seed = len(task.images), config["batch_size"], config["seed"]
    steps = math.ceil(count / size)
    if count % size and count % size < world.size:
        steps -= 1  # a last batch with fewer samples than processes is left out
    limit = min(config["max_steps"] or task.epochs * steps, task.epochs * steps)
    resumed = progress.resume(p, model, optimizer, world, folder)
    if resumed and world.rank == 0 and p.epoch * steps + p.step < limit:
        print(f"{task.stage}: going on at epoch {p.epoch + 1}, step {p.step + 1} of {steps}", flush=True)
    log = MetricsLog(folder, resume_step=p.epoch if resumed else -1) if world.rank == 0 else None
    saved_at = time.monotonic()
    while p.step or p.epoch * steps < limit:  # a state of the last step may be from before the end of its epoch
        for group in optimizer.param_groups:
            group["lr"] = task.lr_at(p.epoch)
        order = torch.randperm(count, generator=runtime.generator(seed, task.stage, "order", p.epoch))
        draws = augment.draw(
            count, task.images.shape[1], config["n_holes"], runtime.generator(seed, task.stage, "augment", p.epoch)
        )
        order, draws = order.to(world.device), augment.Draws(*(d.to(world.device) for d in draws))
        began, last = time.monotonic() - p.seconds, min(steps, limit - p.epoch * steps)
        bar = tqdm(
            total=last * size, initial=p.step * size, desc=f"{task.stage} {p.epoch + 1}/{task.epochs}", unit="img",
            leave=False, disable=None if world.rank == 0 else True,
        )  # fmt: skip
        net.train()
        with neglect.watch(model.penultim_layer) if task.observe else contextlib.nullcontext([]) as seen:
            while p.step < last:
                batch = order[p.step * size : (p.step + 1) * size]
                mine = batch[world.rank :: world.size]
                images = augment.training_batch(
                    task.images[mine], draws.of(mine), *task.constants,
                    config["data_augmentation"], config["cutout"], config["length"],
                )  # fmt: skip
                torch.manual_seed(runtime.derive(seed, task.stage, "dropout", p.epoch, p.step, world.rank))
                loss = train_step(task, config, net, optimizer, images, task.labels[mine], len(batch), seen, p, world)
                p.step += 1
                at = p.epoch * steps + p.step
                p.first_bad = torch.where((p.first_bad < 0) & ~torch.isfinite(loss), at - 1, p.first_bad)
                due = bool(config["checkpoint_steps"]) and at % config["checkpoint_steps"] == 0
                leaving = runtime.agreed(world, stop.requested) if world.size == 1 or at % 20 == 0 else False
                if world.device.type == "cpu" or at % 50 == 0 or due or leaving or p.step == last:  # waits for a GPU
                    runtime.check_finite(p.first_bad, task.stage, len(batch), folder / "checkpoints")
                    bar.set_postfix(loss=f"{float(loss):.3f}", refresh=False)
                bar.update(len(batch))
                if due or leaving:
                    p.seconds = time.monotonic() - began
                    progress.save(p, model, optimizer, world, folder, at)
                if leaving:
                    stop.leave(folder)
        bar.close()
        close_epoch(task, config, p, steps, min(last * size, count), began, world)
        if log is not None:
            shown = {name: value for name, value in p.history[-1].items() if value is not None}
            log.write(p.epoch, shown)
            progress.write_csv(log_csv, p.history)
        leaving = runtime.agreed(world, stop.requested)
        if leaving or p.epoch * steps >= limit or runtime.agreed(world, time.monotonic() - saved_at > SAVE_EVERY_S):
            progress.save(p, model, optimizer, world, folder, p.epoch * steps)
            saved_at = time.monotonic()
        if leaving and p.epoch * steps < limit:
            stop.leave(folder)
    if log is not None:
        log.close()
    return p


def train_step(
    task: Task, config: dict[str, Any], net: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor,
    labels: Tensor, batch: int, seen: list[Tensor], p: Progress, world: World,
) -> Tensor:  # fmt: skip
    """One update; the neglection degree comes from the same forward pass, i.e. from before the update.

    Args:
      images: float32 [b, C, H, W], this process's share of a batch of `batch` samples. labels: int64 [b].
      seen: penultimate output of the newest forward pass (see `neglect.watch`); used where the task observes.
    Returns:
      This process's part of the mean loss over the batch, a scalar.
    """
    with runtime.autocast(world.device, config["amp"]):
        logits = net(images if config["channels_last"] else images.contiguous())
    part = task.criterion(logits, labels).sum() / batch
    optimizer.zero_grad(set_to_none=True)
    (part * world.size).backward()  # DDP averages over the processes
    optimizer.step()
    if task.observe:
        r, count = neglect.batch_degree(seen[0], logits, labels, world)
        neglect.add_batch(p.totals, r, count, batch, config["neglect_weight"] == "sample")
    part, decided = part.detach(), logits.detach().argmax(1)
    right, class_right = decided == labels, task.subclass2class[decided] == task.subclass2class[labels]
    p.sums += torch.stack([part.double() * batch, right.sum().double(), class_right.sum().double()])
    return part


def close_epoch(
    task: Task, config: dict[str, Any], p: Progress, steps: int, samples: int, began: float, world: World
) -> None:
    """Ends an epoch: one transfer of its sums and degrees to the host, the test, the history, the chance check."""
    runtime.reduce_sum(world, p.sums)
    loss, right, class_right = (p.sums / samples).tolist()  # DEVIATION SDN-D16: over all samples, not the batch size
    if task.observe:
        degrees, skipped = neglect.close_epoch(p.totals, config["neglect_total"] == "compound")
        p.degrees.append(degrees)
        p.skipped += skipped
    seconds = time.monotonic() - began
    lr = task.lr_at(p.epoch)
    p.epoch += 1
    row = {"epoch": p.epoch, "lr": lr, "trn_acc": right, "trn_class_acc": class_right, "loss": loss, "seconds": seconds}
    p.history.append(row)  # DEVIATION SDN-D18: class accuracy beside the subclass accuracy
    began = time.monotonic()
    row["tst_acc"] = task.after_epoch(p)
    row["test_seconds"] = time.monotonic() - began
    progress.clear_epoch(p)
    if world.rank == 0:
        tested = f", test {100 * row['tst_acc']:.2f} %" if row["tst_acc"] is not None else ""
        left = (task.epochs - p.epoch) * (seconds + row["test_seconds"]) / 60
        told = p.epoch in (1, task.epochs // 2) and p.epoch < task.epochs and not config["max_steps"]
        ahead = f", about {left:.1f} min to go" if told else ""
        print(
            f"{task.stage} epoch {p.epoch}/{task.epochs}: loss {loss:.4f}, train {100 * class_right:.2f} %{tested}, "
            f"{seconds:.1f} s, {samples / seconds:.0f} images/s{ahead}",
            flush=True,
        )
    if p.epoch == config["chance_epochs"]:
        check_chance(task, config, class_right, samples, world)


def check_chance(task: Task, config: dict[str, Any], accuracy: float, samples: int, world: World) -> None:
    """Warns if the training accuracy of an epoch is at chance, as the released program goes on then.

    At chance: within three standard errors of the share of the largest class.

    Args:
      task: the stage.
      config: the resolved flags; `chance_stops` asks for an error.
      accuracy: share of the samples whose class was right in this epoch.
      samples: how many samples the epoch had.
      world: the processes; the first one prints.
    Raises:
      UserError: training is at chance and --chance-epochs was given.
    """
    share = torch.bincount(task.subclass2class[task.labels]).max().item() / len(task.labels)
    if accuracy > share + 3 * math.sqrt(share * (1 - share) / samples):
        return
    epochs, rate = config["chance_epochs"], working_rate(config["learning_rate"], int(task.subclass2class.max()) + 1)
    message = (
        f"{task.stage}: after {epochs} epochs the training accuracy {100 * accuracy:.2f} % is still at chance "
        f"({100 * share:.2f} %); try --learning_rate {rate:g}"
    )
    if config["chance_stops"]:
        raise UserError(f"{message} (--chance-epochs 0 goes on)")
    if world.rank == 0:
        hint = "" if config["compat"] == "official" else f"; --chance-epochs {epochs} stops it"
        print(f"warning: {message} (the run goes on{hint})", file=sys.stderr, flush=True)


def working_rate(rate: float, classes: int) -> float:
    """The learning rate to try after one that left training at chance.

    The loss is a sum over outputs, so the largest rate that does not saturate them falls with their number: tried on
    CIFAR, 0.01 works for 10 classes and 0.001 for 100. See "Saturation" in docs/papers/subclass.md.

    Args:
      rate: the rate that failed.
      classes: C.
    Returns:
      0.1 / C to one digit; a tenth of that if it is what failed.
    """
    tried = float(f"{0.1 / classes:.0e}")
    return tried / 10 if rate == tried else tried
