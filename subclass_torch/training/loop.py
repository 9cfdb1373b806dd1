"""The training loop of a stage; stage 1, stage 2 and the plain network all run through it."""

from __future__ import annotations

import functools
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

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
from subclass_torch.training.optimizer import optimizer_of, parallel
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
    state, reduce = training.state, functools.partial(runtime.reduce_sum, world)
    draw = functools.partial(runtime.generator, config.seed, task.stage)
    crop, cutout, length = config.data_augmentation, config.cutout, config.length
    write_best(task, model, training, world)
    for epoch in training.epochs():
        order = torch.randperm(count, generator=draw("order", epoch)).to(world.device)
        draws = augment.draw(count, task.images.shape[1], config.n_holes, draw("augment", epoch)).to(world.device)
        optimizer.param_groups[0]["lr"] = task.lr_at(epoch)
        layer = model.get_submodule("penultim_layer")
        watch: AbstractContextManager[list[Tensor]] = neglect.watch(layer) if task.observe else nullcontext([])
        net.train()
        with watch as seen:
            for batch in training.batches(order):
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
                if config.schedule == "onecycle":
                    optimizer.param_groups[0]["lr"] = runtime.one_cycle(training.step, ends[-1], config.learning_rate)
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
        samples = min(training.step_in_epoch * size, count)
        # DEVIATION SDN-D16: means over all samples, not the batch size
        mean = {name: float(total) / samples for name, total in states.total(training.sums).items()}
        if task.observe:
            degrees, skipped = neglect.close_epoch(state["totals"], config.neglect_total == "compound")
            state["degrees"].append(degrees)
            state["skipped"] += skipped
            state["totals"] = neglect.new_totals(task.classes, world.device)
        began, accuracy, best = time.monotonic(), None, False
        if epoch + 1 >= task.first_test:
            runtime.share_statistics(model, world)  # DDP does so before a training step only
            decided = decisions(model, task.test_images, task.subclass2class, task.constants, config, world)
            accuracy = int((decided == task.test_labels).sum()) / len(decided)
            best = accuracy > state["best_accuracy"]
            if best:
                # DEVIATION SDN-D21: the best epoch is chosen on the test split, so the last is reported too
                state["best_accuracy"], state["best_epoch"] = accuracy, epoch + 1
        row = {
            "epoch": epoch + 1,
            "lr": optimizer.param_groups[0]["lr"],
            "trn_acc": mean["right"],
            "trn_class_acc": mean["class_right"],  # DEVIATION SDN-D18: next to the subclass accuracy
            "loss": mean["loss_sum"],
            "seconds": training.epoch_seconds,
            "tst_acc": accuracy,
            "test_seconds": time.monotonic() - began,
        }
        if training.metrics is not None:
            record.print_epoch(task.stage, task.epochs, row, samples)
            training.metrics.write(epoch + 1, {name: value for name, value in row.items() if value is not None})
            record.write_csv(log_csv, [*training.history, row])
        if epoch + 1 == config.chance_epochs:
            truth = task.subclass2class[task.labels]
            check_chance(task.stage, truth, task.classes, config, mean["class_right"], samples, world)
        training.end_epoch(row, save=best)
        write_best(task, model, training, world)
    return training


def write_best(task: Task, model: nn.Module, training: Training, world: World) -> None:
    """Writes the network of the best epoch if that epoch has just ended, after its state or restored from it.

    So the file is never newer than the state: a GPU that repeats an epoch after a kill may find another accuracy.
    """
    epoch, accuracy = training.state["best_epoch"], training.state["best_accuracy"]
    ended = epoch == training.epoch and not training.step_in_epoch
    if ended and task.best_file and world.rank == 0:
        record.write_network(task.best_file, model, task.facts, epoch, accuracy)
