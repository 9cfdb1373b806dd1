"""Stage 1: trains the plain network for a few epochs and ranks the classes by their neglection degree."""

from __future__ import annotations

import torch

from subclass_torch import flags
from subclass_torch.data.augment import tensor_of
from subclass_torch.method import losses
from subclass_torch.training import record
from subclass_torch.training.evaluate import decisions
from subclass_torch.training.loop import run_stage
from subclass_torch.training.optimizer import learning_rate
from subclass_torch.training.setting import Setting, Task, run_id

MILESTONES, GAMMA = [10, 20, 30], 0.2  # authors' notebook.py; not reached in 10 epochs


def identify(setting: Setting) -> None:
    """Runs stage 1 and writes the neglected classes, unless it has finished."""
    config, world, folder = setting.config, setting.world, setting.folder / "stage1"
    with setting.opened(folder, flags.of_run(config, stage1=True)) as opened:
        if setting.is_finished(opened):
            return
        data = setting.data
        name = run_id(folder, config) if opened else ""
        # DEVIATION SDN-D04: one optimizer, the schedule attached to it
        milestones = MILESTONES if config.stage1_lr == "scheduled" else []
        model = setting.network("stage1", len(data.class_names))
        task = Task(
            stage="stage1",
            images=tensor_of(data.train_images).to(world.device),
            labels=tensor_of(data.train_labels).to(world.device),
            test_images=tensor_of(data.test_images),
            test_labels=tensor_of(data.test_labels),
            subclass2class=torch.arange(len(data.class_names), device=world.device),
            constants=setting.constants,
            criterion=losses.class_loss,
            epochs=config.epochs_class,
            lr_at=lambda epoch: learning_rate(epoch, config.learning_rate, milestones, GAMMA),
            first_test=1 if config.max_steps else config.epochs_class,  # once, at its end
            observe=True,
        )
        training = run_stage(task, config, model, world, setting.stop, folder, folder / "logs" / f"{name}.csv")
        if opened:
            alone = world._replace(size=1)  # the other processes have finished
            decided = decisions(model, task.test_images, task.subclass2class, task.constants, config, alone)
            opened.finish(
                record.stage1_record(config, data, world, training, folder, name, decided.numpy()),
                lambda: record.draw_stage1(config, data, training, folder),
            )
