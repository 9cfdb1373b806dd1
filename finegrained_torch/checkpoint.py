"""A trained network out of its best.ckpt, for --eval and for use from one's own code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finegrained_torch import evaluate
from finegrained_torch.classifier import LitResnet, Module, MultiHead
from reproduction.runtime.run_folder import UserError, shown
from reproduction.runtime.torch_runtime import read_checkpoint

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
    try:
        module = _built(content)
        module.load_state_dict(content["state_dict"])
    except Exception as error:  # any entry may be of any kind; a foreign file is all that is meant
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise UserError(f"{shown(path)}: weights do not fit ({reason})") from None
    return module.to(device).eval(), content


def _built(content: Mapping[str, Any]) -> Module:
    """A network as the checkpoint describes it, with weights of its own."""
    held = sum(value.numel() for value in content["state_dict"].values())
    other = content.get("other_classes") or 0
    if max(content["classes"], content.get("num_sub") or 0, other) > held:  # before a network of that size is made
        raise ValueError(f"{content['classes']} classes")
    options = {"network": content["network"], "mean": content["mean"], "std": content["std"]}
    if content["stage"] == "multi-head":
        return MultiHead(
            num_classes=content["num_sub"], num_superclasses=content["classes"], alpha=content["alpha"], **options
        )
    fine_tuned = content["stage"] == "fine-tune"
    mode = "sub" if content["stage"] == "sub" else "sup"
    classes = content["num_sub"] if fine_tuned else content["classes"]
    module = LitResnet(num_classes=classes, mode=mode, other_classes=other, **options)
    if fine_tuned:
        module.fine_tuning(content["classes"], dim_sub=content["num_sub"], variant=content["head"])
    return module


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
