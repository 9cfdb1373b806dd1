"""Step 2: fine labels help the coarse ones, by fine-tuning a sub classifier or by a network with two heads."""

from __future__ import annotations

import torch

from finegrained_torch.training.loop import train
from finegrained_torch.training.modules import LitResnet, MultiHead
from finegrained_torch.training.record import close_training
from finegrained_torch.training.setting import Setting, best_weights
from reproduction.runtime import torch_runtime as runtime


def train_sub(setting: Setting) -> None:
    """Step 2 (i): trains on the fine labels from the initial weights; on certain images only if they are pseudo."""
    config = setting.config
    fine, count, digest = setting.sub_labels()
    inputs = {"data": setting.data_hash, "labels": digest, "weights": setting.pretrained[1]}
    with setting.open_stage("sub", setting.folder("sub"), inputs) as run:
        if run.is_finished():
            return
        other = setting.other_classes(setting.data.num_coarse_labels)
        key = (config.seed, "sub")
        module = setting.new_module(LitResnet, key, num_classes=count, mode="sub", other_classes=other)
        kind = setting.labels_kind
        task = setting.task("sub", run, module, fine, fine >= 0, classes=count, labels=kind, other_classes=other)
        close_training(setting, run, task, train(task, config), inputs)


def fine_tune(setting: Setting) -> None:
    """Step 2 (ii): trains the sub classifier with a new head on coarse labels and all images; one run per --head."""
    config, classes = setting.config, setting.data.num_coarse_labels
    content, digest = best_weights(setting.folder("sub"), "sub")
    count, other = int(content["classes"]), content.get("other_classes", 0)
    inputs = {"data": setting.data_hash, "sub": digest}
    for head in config.head:
        with setting.open_stage("fine-tune", setting.folder("fine-tune", head=head), inputs, head=head) as run:
            if run.is_finished():
                continue
            module = setting.new_module(
                LitResnet,
                (config.seed, "fine-tune"),
                pretrained=False,
                num_classes=count,
                mode="sub",
                other_classes=other,
            )
            module.load_state_dict(content["state_dict"])
            torch.manual_seed(runtime.derive(config.seed, "fine-tune", head))
            module.fine_tuning(classes, config.freeze, count, variant=head)
            task = setting.task(
                "fine-tune", run, module, classes=classes, head=head, num_sub=count, other_classes=other
            )
            close_training(setting, run, task, train(task, config), inputs)


def train_multi_head(setting: Setting) -> None:
    """Step 2, multi-head: trains on both labels at once from the initial weights; one run per --alpha."""
    config, classes = setting.config, setting.data.num_coarse_labels
    fine, count, digest = setting.sub_labels()
    inputs = {"data": setting.data_hash, "labels": digest, "weights": setting.pretrained[1]}
    for alpha in config.alpha:
        with setting.open_stage("multi-head", setting.folder("multi-head", alpha=alpha), inputs, alpha=alpha) as run:
            if run.is_finished():
                continue
            key = (config.seed, "multi-head")
            module = setting.new_module(MultiHead, key, num_classes=count, num_superclasses=classes, alpha=alpha)
            task = setting.task("multi-head", run, module, fine, fine >= 0, classes=classes, alpha=alpha, num_sub=count)
            close_training(setting, run, task, train(task, config), inputs)
