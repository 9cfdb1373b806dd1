"""Lightning, imported after torchvision has been made importable: torchmetrics pulls it in wherever it is installed."""

from reproduction.torch_runtime import torchvision_ready

torchvision_ready()

# DEVIATION FGL-D32: lightning, umap-learn, hdbscan and scikit-learn are declared and pinned, and what they do is tested
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything  # noqa: E402
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping  # noqa: E402
from lightning.pytorch.tuner import Tuner  # noqa: E402

__all__ = ["Callback", "Checkpoint", "EarlyStopping", "LightningModule", "Trainer", "Tuner", "seed_everything"]
