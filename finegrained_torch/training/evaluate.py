"""Numbers from predictions on a split, and trained networks read back from best.ckpt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finegrained_torch.training.modules import LitResnet, Module, MultiHead, log_probabilities
from reproduction.runtime.arrays import write_npz
from reproduction.runtime.faults import first_line
from reproduction.runtime.run_folder import UserError, shown
from reproduction.runtime.torch_runtime import read_checkpoint

if TYPE_CHECKING:
    from finegrained_torch.training.setting import Setting

AUROC_BATCH = 400  # the notebook's evaluation batch
_NEEDED = ("state_dict", "stage", "network", "classes", "mean", "std", "coarse_names", "dataset")


def compute_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Computes accuracy, macro accuracy and NLL.

    Args:
      scores: log-probabilities [n, C].
      labels: int64 [n], 0..C-1.
    Returns:
      accuracy: share of correct images.
      macro_accuracy: mean accuracy of the classes that occur.
      nll: mean negative log-likelihood, nats.
    Raises:
      ValueError: no images.
    """
    if len(labels) == 0:
        raise ValueError("no images to evaluate")
    right = scores.argmax(1) == labels
    per_class = [float(right[labels == label].mean()) for label in np.unique(labels)]
    nll = -scores[np.arange(len(labels)), labels].astype(np.float64).mean()
    return {
        "accuracy": float(np.count_nonzero(right)) / len(right),
        "macro_accuracy": sum(per_class) / len(per_class),
        "nll": float(nll),
    }


def auroc(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Computes the one-against-rest AUROC, mean over classes: of the whole set, and the notebook's mean over batches.

    Args:
      scores: log-probabilities [n, C].
      labels: int64 [n].
    Returns:
      auroc, auroc_batches (mean over batches of 400 in file order; classes that a batch lacks count 0 there).
    Source: PathMNIST.ipynb. Deviation: FGL-D28.
    """
    from torchmetrics.functional.classification import multiclass_auroc

    def mean_auroc(some: np.ndarray, of: np.ndarray) -> float:
        value = multiclass_auroc(torch.from_numpy(some).exp(), torch.from_numpy(of), some.shape[1], average="none")
        return float(value.mean())

    # DEVIATION FGL-D28: over the whole test set; the mean of batches as well, for comparison with the notebook
    parts = range(0, len(labels), AUROC_BATCH)
    batches = [mean_auroc(scores[at : at + AUROC_BATCH], labels[at : at + AUROC_BATCH]) for at in parts]
    return {"auroc": mean_auroc(scores, labels), "auroc_batches": sum(batches) / len(batches)}


def write_predictions(path: Path, scores: np.ndarray, labels: np.ndarray, fine: np.ndarray) -> None:
    """Writes labels, predicted, fine int64 [n] and log_probabilities float32 [n, C]; for McNemar's test."""
    arrays = {"labels": labels.astype(np.int64), "predicted": scores.argmax(1).astype(np.int64)}
    write_npz(path, arrays | {"fine": fine.astype(np.int64), "log_probabilities": scores.astype(np.float32)})


def load(path: Path | str, device: torch.device | str = "cpu") -> tuple[Module, dict[str, Any]]:
    """Loads the network of a training, in evaluation mode.

    Args:
      path: a best.ckpt, or its folder.
      device: where to put the network.
    Returns:
      LitResnet or MultiHead, and the other content of the checkpoint (stage, dataset, coarse_names, val_acc, ...).
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
        module = _build(content)
        module.load_state_dict(content["state_dict"])
    except Exception as error:  # any entry may be of any kind; a foreign file is all that is meant
        raise UserError(f"{shown(path)}: weights do not fit ({first_line(error)})") from None
    return module.to(device).eval(), content


def _build(content: Mapping[str, Any]) -> Module:
    """Builds the network that a checkpoint describes, with fresh weights."""
    values = sum(value.numel() for value in content["state_dict"].values())
    other = content.get("other_classes") or 0
    if max(content["classes"], content.get("num_sub") or 0, other) > values:  # before a network of that size is built
        raise ValueError(f"{content['classes']} classes")
    options = {"network": content["network"], "mean": content["mean"], "std": content["std"]}
    if content["stage"] == "multi-head":
        return MultiHead(
            num_classes=content["num_sub"], num_superclasses=content["classes"], alpha=content["alpha"], **options
        )
    fine_tuned = content["stage"] == "fine-tune"
    mode = "sub" if fine_tuned or content["stage"] == "sub" else "sup"  # as in training: the layer that is fine-tuned
    classes = content["num_sub"] if fine_tuned else content["classes"]
    module = LitResnet(num_classes=classes, mode=mode, other_classes=other, **options)
    if fine_tuned:
        module.fine_tuning(content["classes"], dim_sub=content["num_sub"], variant=content["head"])
    return module


def check_held_out(content: Mapping[str, Any], hold_out: bool, limit_train: int) -> None:
    """Refuses a test split with images that a checkpoint may have been trained on.

    Args:
      content: of the checkpoint.
      hold_out: --hold-out of this command.
      limit_train: --limit_train of this command, which also decides which images are held out.
    Raises:
      UserError: trained with another --hold-out or, with it, another --limit_train; or it is not known.
    """
    if hold_out and "hold_out" not in content:
        raise UserError("--hold-out: the checkpoint does not name the images it was trained on; train it again")
    if hold_out != content.get("hold_out", False):
        raise UserError(f"--eval: the checkpoint was trained {'without' if hold_out else 'with'} --hold-out")
    if hold_out and limit_train != content.get("limit_train"):
        trained = f"trained with --limit_train {content.get('limit_train')}"
        raise UserError(f"--eval: the checkpoint was {trained}, here it is {limit_train}: other images are held out")


def print_evaluation(setting: Setting, checkpoint: str) -> None:
    """Prints, for --eval CHECKPOINT, accuracy, macro accuracy and NLL on the whole test split.

    Raises:
      UserError: another data set, another --hold-out, or a sub classifier on pseudo-labels.
    """
    module, content = load(checkpoint, setting.device)
    check_held_out(content, setting.config.hold_out, setting.config.limit_train)
    data = setting.data
    if content["dataset"] != data.name:
        raise UserError(f"--eval: the checkpoint was trained on {content['dataset']}, --dataset is {data.name}")
    if list(content["coarse_names"]) != list(data.coarse_names):
        raise UserError(
            f"--eval: the checkpoint knows the classes {', '.join(map(str, content['coarse_names'][:5]))}, "
            f"--dataset has {', '.join(data.coarse_names[:5])}"
        )
    labels = data.test.coarse
    if content["stage"] == "sub":
        if content.get("labels") != "true":
            raise UserError("--eval: the network learned pseudo-labels, which test images do not have")
        labels = data.test.fine
    metrics = compute_metrics(log_probabilities(module, *setting.test, setting.config.test_batch), labels)
    print(
        f"accuracy {100 * metrics['accuracy']:.4f} % on {len(labels):,} test images of {data.name}, macro accuracy "
        f"{100 * metrics['macro_accuracy']:.4f} %, NLL {metrics['nll']:.4f} (epoch {content['epoch']})"
    )
