"""Decisions and figures on the test split: confusion matrix, CCR, per-class accuracy."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reproduction.runtime.run_folder import UserError, shown
from reproduction.runtime.torch_runtime import World, autocast, read_checkpoint, reduce_sum
from subclass_torch.data import augment
from subclass_torch.networks import build as models


def tensor_of(array: np.ndarray) -> Tensor:
    """The array as a tensor without a copy; a read-only memory map (SVHN) gives no warning, nothing here writes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def decide(logits: Tensor, subclass2class: Tensor) -> Tensor:
    """Class of each sample: argmax over all S outputs, then the subclass's class.

    Args:
      logits: [B, S]. subclass2class: int64 [S].
    Returns:
      int64 [B].
    Source: authors' testutils.py.
    """
    return subclass2class[logits.argmax(1)]


def class_scores(scores: Tensor, subclass2class: Tensor, classes: int) -> Tensor:
    """Score of each class: the maximum over its subclasses. Agrees with `decide` for the top class.

    Args:
      scores: [B, S]. subclass2class: int64 [S]. classes: C.
    Returns:
      [B, C].
    Source: authors' subclasscnn.py (a loop over videos and classes). Deviation: SDN-Y05, SDN-Y06.
    """
    out = torch.full((len(scores), classes), -torch.inf, dtype=scores.dtype, device=scores.device)
    # DEVIATION SDN-Y05: one scatter, not two Python loops. DEVIATION SDN-Y06: no added classes is no special case
    return out.scatter_reduce(1, subclass2class.expand(len(scores), -1), scores, "amax")


@torch.no_grad()
def confusion(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    subclass2class: Tensor,
    classes: int,
    constants: tuple[Tensor, Tensor],
    config: dict[str, Any],
    world: World,
) -> Tensor:
    """Confusion matrix on a test split; each process takes its share of the batches.

    Args:
      model: in any mode; left in evaluation mode. images: uint8 [M, H, W, C]. labels: int64 [M].
      subclass2class: int64 [S]. classes: C. constants: mean and std, float32 [channels].
      config: batch_size, amp, channels_last.
    Returns:
      int64 [C, C], row = true class, column = decision, on the CPU.
    """
    model.eval()
    total = torch.zeros(classes * classes, dtype=torch.int64, device=world.device)
    batch = config["batch_size"]
    for at in range(world.rank * batch, len(images), world.size * batch):
        inputs = augment.normalize(images[at : at + batch].to(world.device), *constants)
        if not config["channels_last"]:
            inputs = inputs.contiguous()
        with autocast(world.device, config["amp"]):
            logits = model(inputs)
        decided = decide(logits.float(), subclass2class)
        truth = labels[at : at + batch].to(world.device)
        total += torch.bincount(truth * classes + decided, minlength=classes * classes)
    reduce_sum(world, total)
    return total.view(classes, classes).cpu()


def accuracy(matrix: Tensor | np.ndarray) -> float:
    """CCR as a fraction in [0, 1]: correct over all, from integer counts."""
    matrix = np.asarray(matrix)
    return float(np.trace(matrix)) / float(matrix.sum())


def class_accuracy(matrix: Tensor | np.ndarray) -> list[float | None]:
    """Accuracy of each class, None for a class without test images."""
    matrix = np.asarray(matrix)
    totals = matrix.sum(1)
    return [float(matrix[c, c]) / float(n) if n else None for c, n in enumerate(totals)]


_KEYS = {"state_dict", "subclass2class", "neglected", "args", "epoch", "accuracy", "class_names", "mean", "std"}


def pack(model: nn.Module, **facts: Any) -> dict[str, Any]:
    """What a checkpoint for use holds: weights, subclass map and how to feed the network."""
    content = {"state_dict": models.state_of(model), **facts}
    assert content.keys() == _KEYS, content.keys() ^ _KEYS
    return content


def load_network(path: Path, device: torch.device) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuilds the network of a checkpoint, in evaluation mode.

    Args:
      path: a checkpoint, or a run folder, which stands for its best one.
    Returns:
      The network and the rest of the checkpoint.
    Raises:
      UserError: no checkpoint, or one without its subclass map (the authors save a bare state_dict).
    """
    path = Path(path)
    if path.is_dir():
        found = [
            p
            for p in sorted((path / "checkpoints").glob("*.pt"))
            if not p.stem.endswith("_last") and not p.name.startswith("state-")
        ]
        if not found:
            raise UserError(f"--eval {shown(path)}: holds no checkpoint (checkpoints/<id>.pt)")
        path = found[-1]
    content = read_checkpoint(path, device)
    if not isinstance(content, dict) or "subclass2class" not in content:
        raise UserError(
            f"{shown(path)}: has no subclass map (subclass2class); only checkpoints of this repository can be evaluated"
        )
    if missing := _KEYS - content.keys():
        raise UserError(f"{shown(path)}: lacks {', '.join(sorted(missing))}")
    try:
        config, weights = content["args"], content["state_dict"]
        if len(content["subclass2class"]) > sum(value.numel() for value in weights.values()):
            raise ValueError(f"{len(content['subclass2class'])} subclasses")  # before a network of that size is made
        if not all(isinstance(name, str) for name in content["class_names"]):
            raise ValueError("a class name that is no text")
        model = models.build(config["model"], config["dataset"], len(content["subclass2class"]), len(content["mean"]))
        model.load_state_dict(weights)
        channels_last = config["channels_last"]
    except Exception as error:  # any entry may be of any kind; a foreign file is all that is meant
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise UserError(f"{shown(path)}: weights do not fit ({reason})") from None
    content["path"] = path
    model = model.to(device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model.eval(), content
