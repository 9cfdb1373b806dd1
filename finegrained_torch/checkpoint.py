"""A trained network out of its best.ckpt, for --eval and for use from one's own code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finegrained_torch import evaluate
from finegrained_torch.classifier import LitResnet, Module, MultiHead
from reproduction.runs import UserError, shown
from reproduction.torch_runtime import read_checkpoint

if TYPE_CHECKING:
    from finegrained_torch.setting import Setting

_NEEDED = ("state_dict", "stage", "network", "classes", "mean", "std", "coarse_names", "dataset")


def load(path: Path | str, device: torch.device | str = "cpu") -> tuple[Module, dict[str, Any]]:
    """The network of a training, in evaluation mode.

    Args:
      path: a best.ckpt, or the folder that holds it. device: where to put it.
    Returns:
      LitResnet or MultiHead, and what else the checkpoint holds (stage, dataset, coarse_names, val_acc, ...).
    Raises:
      UserError: missing, damaged, or not a checkpoint of this package.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "best.ckpt").exists():
            raise UserError(f"{shown(path)}: holds no best.ckpt")
        path = path / "best.ckpt"
    content = read_checkpoint(path, device)
    lacking = [name for name in _NEEDED if not isinstance(content, dict) or name not in content]
    if lacking:
        raise UserError(f"{shown(path)}: lacks {', '.join(lacking[:3])}; only a best.ckpt of this package can be read")
    options = {"network": content["network"], "mean": content["mean"], "std": content["std"]}
    module: Module
    if content["stage"] == "multi-head":
        module = MultiHead(
            num_classes=content["num_sub"], num_superclasses=content["classes"], alpha=content["alpha"], **options
        )
    else:
        fine_tuned = content["stage"] == "fine-tune"
        mode = "sub" if content["stage"] == "sub" else "sup"
        module = LitResnet(num_classes=content["num_sub"] if fine_tuned else content["classes"], mode=mode, **options)
        if fine_tuned:
            module.fine_tuning(content["classes"], dim_sub=content["num_sub"], variant=content["head"])
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise UserError(f"{shown(path)}: weights do not fit ({str(error).splitlines()[0]})") from None
    return module.to(device).eval(), content


def print_evaluation(setting: Setting) -> None:
    """--eval CHECKPOINT: accuracy, macro accuracy and NLL on the whole test split.

    Raises:
      UserError: another data set, or a sub classifier on pseudo-labels.
    """
    module, content = load(setting.config["eval"], setting.device)
    data = setting.data
    if content["dataset"] != data.name:
        raise UserError(f"--eval: the checkpoint was trained on {content['dataset']}, --dataset is {data.name}")
    labels = data.test.coarse
    if content["stage"] == "sub":
        if content.get("labels") != "true":
            raise UserError("--eval: the network learned pseudo-labels, which test images do not have")
        labels = data.test.fine
    at = np.arange(len(setting.test_items))
    scores = evaluate.log_probabilities(module, setting.test_items, at, setting.config["batch_size"])
    found = evaluate.figures(scores, labels)
    print(
        f"accuracy {100 * found['accuracy']:.4f} % on {len(labels):,} test images of {data.name}, macro accuracy "
        f"{100 * found['macro_accuracy']:.4f} %, NLL {found['nll']:.4f} (epoch {content['epoch']})"
    )
