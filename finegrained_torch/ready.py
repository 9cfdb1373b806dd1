"""Lightning, imported after torchvision has been made importable: torchmetrics pulls it in wherever it is installed.

A process that Lightning spawns imports this first, too: flushing denormals must come before any other torch call.
"""

import logging
import os
import warnings

from finegrained_torch.flags import TRAINING_CHILD
from reproduction.runtime.torch_runtime import torchvision_ready

if TRAINING_CHILD in os.environ:
    import torch

    torch.set_flush_denormal(True)
torchvision_ready()

# DEVIATION FGL-D32: lightning, umap-learn, hdbscan and scikit-learn are declared and pinned, and what they do is tested
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything  # noqa: E402
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping  # noqa: E402
from lightning.pytorch.tuner import Tuner  # noqa: E402

__all__ = ["Callback", "Checkpoint", "EarlyStopping", "LightningModule", "Trainer", "Tuner", "quiet", "seed_everything"]


def quiet() -> None:
    """Keeps Lightning's advice and hardware lines off the terminal; warnings of ours and errors stay."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=".*(num_workers|lr_scheduler\\.step|isinstance\\(treespec).*")


if TRAINING_CHILD in os.environ:
    quiet()
