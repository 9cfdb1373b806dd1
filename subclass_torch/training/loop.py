"""The training loop of a stage; stage 1, stage 2 and the plain network all run through it."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.loop import Training, epoch_ends
from reproduction.runtime.run_folder import Stop
from reproduction.runtime.torch_runtime import World
from reproduction.runtime.torch_states import States
from subclass_torch.data import augment
from subclass_torch.flags import Config
from subclass_torch.method import neglect
from subclass_torch.training import record
from subclass_torch.training.chance import check_chance
from subclass_torch.training.evaluate import decisions
from subclass_torch.training.optimizer import optimizer_of, parallel, rate_at
from subclass_torch.training.setting import Task
from subclass_torch.training.state import first_state, steps_per_epoch

SAVE_EVERY_S = 30.0  # without a new best epoch, full states are not written more often than this


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
    optimizer, net = optimizer_of(model, task.lr_at(0)), parallel(model, config, world)
    count, size = len(task.images), config.batch_size
    ends = epoch_ends(steps_per_epoch(count, size, world), task.epochs, config.max_steps)
    states = States(folder, world, {"model": model, "optimizer": optimizer})
    training = Training(
        task.stage,
        folder,
        ends,
        size,
        states,
        stop,
        state=first_state(task.classes, world.device),
        checkpoint_steps=config.checkpoint_steps,
        save_every_s=SAVE_EVERY_S,
    )
    reduce = functools.partial(runtime.reduce_sum, world)
    draw = functools.partial(runtime.generator, config.seed, task.stage)
    crop, cutout, length = config.data_augmentation, config.cutout, config.length
    write_best(task, model, training, world)
    for epoch in training.epochs():
        order = torch.randperm(count, generator=draw("order", epoch)).to(world.device)
        draws = augment.draw(count, task.images.shape[1], config.n_holes, draw("augment", epoch)).to(world.device)
        net.train()
        with watched(task, model) as seen:
            for batch in training.batches(order):
                rate = optimizer.param_groups[0]["lr"] = rate_at(task, config, epoch, training.step, ends[-1])
                mine = batch[world.rank :: world.size]  # this process's share
                labels = task.labels[mine]
                images = augment.training_batch(
                    task.images[mine], draws.of(mine), *task.constants, crop, cutout, length
                )
                words = "dropout", epoch, training.step_in_epoch, world.rank
                torch.manual_seed(runtime.derive(config.seed, task.stage, *words))
                # DEVIATION SDN-D28: float32 in torch's own memory format, not compiled, unless a flag asks for speed
                with runtime.autocast(world.device, config.amp):
                    logits = net(images if config.channels_last else images.contiguous())
                loss = task.criterion(logits, labels).sum() / len(batch)
                optimizer.zero_grad(set_to_none=True)
                (loss * world.size).backward()  # DDP averages over the processes
                optimizer.step()
                if task.observe:  # by the forward pass of the update, that is by the weights before it
                    r, positives = neglect.batch_degree(seen[0], logits, labels, reduce)
                    totals, per_sample = training.state["totals"], config.neglect_weight == "sample"
                    neglect.add_batch(totals, r, positives, len(batch), per_sample)
                training.log(loss, **sums_of(task, loss, logits, labels, len(batch)))
        if task.observe:
            neglect.end_epoch(training.state, config.neglect_total == "compound")
        samples = min(training.step_in_epoch * size, count)
        row = epoch_row(training, states.total(training.sums), rate, samples)
        row |= test_epoch(task, config, model, world, training)
        report_epoch(task, training, row, samples, log_csv)
        if epoch + 1 == config.chance_epochs:
            truth = task.subclass2class[task.labels]
            check_chance(task.stage, truth, task.classes, config, row["trn_class_acc"], samples, world)
        training.end_epoch(row, save=training.state["best_epoch"] == epoch + 1)
        write_best(task, model, training, world)
    return training


def watched(task: Task, model: nn.Module) -> AbstractContextManager[list[Tensor]]:
    """Collects the features of which the neglection degree is made, if the stage measures it."""
    return neglect.watch(model.get_submodule("penultim_layer")) if task.observe else nullcontext([])


def sums_of(task: Task, loss: Tensor, logits: Tensor, labels: Tensor, size: int) -> dict[str, Tensor]:
    """What a step of `size` images adds to the epoch's sums: loss, and images with the right subclass and class."""
    decided = logits.detach().argmax(1)
    class_right = task.subclass2class[decided] == task.subclass2class[labels]
    return {
        "loss_sum": loss.detach().double() * size,
        "right": (decided == labels).sum(),
        "class_right": class_right.sum(),
    }


def epoch_row(training: Training, totals: Mapping[str, Any], rate: float, samples: int) -> dict[str, Any]:
    """Returns the numbers of an epoch's training; `totals` are the sums of all processes."""
    # DEVIATION SDN-D16: means over all samples, not the batch size
    mean = {name: float(total) / samples for name, total in totals.items()}
    return {
        "epoch": training.epoch + 1,
        "lr": rate,
        "trn_acc": mean["right"],
        "trn_class_acc": mean["class_right"],  # DEVIATION SDN-D18: next to the subclass accuracy
        "loss": mean["loss_sum"],
        "seconds": training.epoch_seconds,
    }


def test_epoch(task: Task, config: Config, model: nn.Module, world: World, training: Training) -> dict[str, Any]:
    """Tests the network if the epoch is one to test, and notes in the training's state whether it is the best."""
    began, accuracy, epoch, state = time.monotonic(), None, training.epoch + 1, training.state
    if epoch >= task.first_test:
        runtime.share_statistics(model, world)  # DDP does so before a training step only
        decided = decisions(model, task.test_images, task.subclass2class, task.constants, config, world)
        accuracy = int((decided == task.test_labels).sum()) / len(decided)
        if accuracy > state["best_accuracy"]:
            # DEVIATION SDN-D21: the best epoch is chosen on the test split, so the last is reported too
            state |= {"best_accuracy": accuracy, "best_epoch": epoch}
    return {"tst_acc": accuracy, "test_seconds": time.monotonic() - began}


def report_epoch(task: Task, training: Training, row: dict[str, Any], samples: int, log_csv: Path) -> None:
    """Prints the numbers of an epoch and writes them to metrics.jsonl, TensorBoard and the authors' log, on rank 0."""
    if training.metrics is not None:
        record.print_epoch(task.stage, task.epochs, row, samples)
        training.metrics.write(row["epoch"], {name: value for name, value in row.items() if value is not None})
        record.write_csv(log_csv, [*training.history, row])


def write_best(task: Task, model: nn.Module, training: Training, world: World) -> None:
    """Writes the network of the best epoch if that epoch has just ended, after its state or restored from it.

    So the file is never newer than the state: a GPU that repeats an epoch after a kill may find another accuracy.
    """
    epoch, accuracy = training.state["best_epoch"], training.state["best_accuracy"]
    ended = epoch == training.epoch and not training.step_in_epoch
    if ended and task.best_file and world.rank == 0:
        record.write_network(task.best_file, model, task.facts, epoch, accuracy)
