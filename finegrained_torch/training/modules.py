"""The two Lightning modules: one head (base, sub classifier, fine-tuning) and two heads (multi-head); their Trainer.

Lightning is imported here, after torchvision has been made importable: torchmetrics imports it if it is installed. A
process that Lightning spawns imports this file first: flushing denormals must come before any other torch call.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from finegrained_torch.flags import AMP, TRAINING_CHILD, Config
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.torch_runtime import derive, generator, one_cycle
from reproduction.runtime.torchvision_guard import torchvision_ready

if TRAINING_CHILD in os.environ:
    torch.set_flush_denormal(True)
torchvision_ready()

import torch.nn.functional as F  # noqa: E402

# DEVIATION FGL-D32: lightning, umap-learn, hdbscan and scikit-learn are declared and pinned, and what they do is tested
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything  # noqa: E402
from lightning.pytorch.callbacks import Checkpoint  # noqa: E402
from lightning.pytorch.plugins.environments import LightningEnvironment  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from finegrained_torch.data.images import Batch, Items, draw_shifts, normalize, shifted  # noqa: E402
from finegrained_torch.networks import resnet  # noqa: E402

__all__ = ["Callback", "Checkpoint", "LightningModule", "Trainer", "seed_everything"]


def quiet() -> None:
    """Turns off Lightning's advice and hardware lines; our warnings and errors stay."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=".*(num_workers|lr_scheduler\\.step|isinstance\\(treespec).*")


if TRAINING_CHILD in os.environ:
    quiet()


PERIOD, LOWEST_RATE = 10, 1e-6  # epochs between warm restarts; eta_min


class Optimization(NamedTuple):
    """How weights are updated; the defaults are the release's pipeline.py, `adam` and `constant` its main.py.

    Attributes:
      optimizer: sgd or adam.
      schedule: restarts, cosine, constant or onecycle.
      max_epochs: length of cosine.
      key: seeds of order, dropout and augmentation, (seed, stage).
      augment: none, or shifts: each training image moved by up to two pixels and mirrored with probability 1/2.
    """

    optimizer: str = "sgd"
    schedule: str = "restarts"
    max_epochs: int = 50
    key: tuple[int | str, ...] = (42, "coarse")
    augment: str = "none"

    def of(self, parameters: Any, rate: float) -> torch.optim.Optimizer:
        """SGD with momentum 0.9 and weight decay 5e-4, or Adam with weight decay 1e-4."""
        parameters = list(parameters)
        fused = runtime.fused(parameters)
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=rate, weight_decay=1e-4, fused=fused)
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=5e-4, fused=fused)

    def scheduler(
        self, optimizer: torch.optim.Optimizer, steps: int = 0
    ) -> torch.optim.lr_scheduler.LRScheduler | None:
        """Warm restarts every 10 epochs, one cosine over all epochs, or none; one cycle is stepped once a batch.

        Args:
          optimizer: of `of`.
          steps: of the whole training, for one cycle.
        """
        if self.schedule == "onecycle":
            return torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: one_cycle(min(step, steps - 1), steps, 1.0)
            )
        if self.schedule == "restarts":  # DEVIATION FGL-D07: without `verbose`, which is gone
            return torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, PERIOD, 1, LOWEST_RATE)
        if self.schedule == "cosine":
            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.max_epochs, LOWEST_RATE)
        return None


RELEASED = Optimization()


class Module(LightningModule):
    """What both modules share: normalization on the device, the optimizer, seeds of each step, logging."""

    mean: Tensor
    std: Tensor
    network: resnet.Network
    prefix = ""  # suffix of the logged names: the coarse head of multi-head logs "val_acc sup"

    def __init__(self, learning_rate: float, optimization: Optimization, mean: Any, std: Any):
        super().__init__()
        self.learning_rate, self.optimization = learning_rate, optimization
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)
        self.draws, self.drawn = torch.zeros(3, 0, dtype=torch.int64), 0

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> normalized float32; other input passes as it is."""
        return normalize(images, self.mean, self.std) if images.dtype == torch.uint8 else images

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = self.optimization.of(trained, self.learning_rate)
        cycle = self.optimization.schedule == "onecycle"
        scheduler = self.optimization.scheduler(optimizer, int(self.trainer.estimated_stepping_batches) if cycle else 0)
        if scheduler is None:
            return optimizer
        how = {"scheduler": scheduler, "interval": "step" if cycle else "epoch"}
        return {"optimizer": optimizer, "lr_scheduler": how}

    def on_train_epoch_start(self) -> None:
        if self.optimization.augment != "none":
            self.draw_augmentation(len(self.trainer.train_dataloader.dataset))  # type: ignore[union-attr]

    def draw_augmentation(self, images: int) -> None:
        """Draws once for all images of an epoch: a function of (seed, stage, epoch, process) alone."""
        draw = generator(*self.optimization.key, "augment", self.current_epoch, self.global_rank)
        self.draws, self.drawn = runtime.upload(draw_shifts(images, draw), self.device), 0

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seeds dropout, so that its draws are a function of (seed, stage, step, process) alone."""
        # DEVIATION FGL-D31: no random state runs on from step to step or from stage to stage
        torch.manual_seed(derive(*self.optimization.key, "dropout", self.global_step, self.global_rank))

    def augmented(self, images: Tensor) -> Tensor:
        """Training images as the network sees them, by the epoch's next draws."""
        if self.optimization.augment == "none":
            return images
        first, self.drawn = self.drawn, self.drawn + len(images)
        return shifted(images, self.draws[:, first : self.drawn])

    def log_epoch(self, split: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Mean loss and accuracy over the epoch, over all processes."""
        # DEVIATION FGL-D07: accuracy needs task and num_classes in torchmetrics now; the mean of hits is the same
        hits = (logits.detach().argmax(1) == labels).float().mean()
        # Lightning divides the summed batch sizes by the world size with integer division; multiply first
        weight = len(labels) * (torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1)
        for name, value in ((f"{split}_loss{self.prefix}", loss.detach()), (f"{split}_acc{self.prefix}", hits)):
            self.log(name, value, on_step=False, on_epoch=True, batch_size=weight, sync_dist=True)


class LitResnet(Module):
    """One head, on the coarse or the fine labels.

    Args:
      learning_rate: start of the schedule.
      num_classes: outputs.
      pretrained: True for the ImageNet weights in data/weights, or a state dict.
      mode: "sup" learns the coarse label of a batch (image, fine, coarse), "sub" the fine one.
      batch_size: stored, not used.
      network: one of resnet.NETWORKS.
      optimization: optimizer, schedule and augmentation.
      mean: of the pixels of each channel, on the 0-1 scale.
      std: likewise.
      other_classes: outputs for the other kind of label in the same layer (fine ones stand first); network legacy only.
    Source: authors' models/Classifier.py; main.py for S + C outputs.
    """

    def __init__(
        self,
        learning_rate: float = 0.1,
        num_classes: int = 10,
        pretrained: bool | Mapping[str, Tensor] = False,
        mode: str = "sup",
        batch_size: int = 200,
        *,
        network: str = "resnet18",
        optimization: Optimization = RELEASED,
        mean: Any = (0.0,) * 3,
        std: Any = (1.0,) * 3,
        other_classes: int = 0,
    ):
        if mode not in ("sup", "sub"):
            raise ValueError(f"mode {mode!r}: sup or sub")
        super().__init__(learning_rate, optimization, mean, std)
        self.mode, self.batch_size = mode, batch_size
        # DEVIATION FGL-D22: no labels are moved by hand and nothing is printed; Lightning places the batch
        place = {"before" if mode == "sup" else "after": other_classes}
        self.network = resnet.build(network, num_classes, _state(pretrained), **place)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> log-probabilities [B, outputs]."""
        return F.log_softmax(self.network(self.prepare(images)).float(), 1)

    def _step(self, batch: Batch, split: str) -> Tensor:
        images, fine, coarse = batch
        labels = coarse if self.mode == "sup" else fine
        if split == "train":
            images = self.augmented(images)
        logits = self.network(self.prepare(images)).float()
        loss = F.cross_entropy(logits, labels)
        self.log_epoch(split, loss, logits, labels)
        return loss

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "val")

    def fine_tuning(
        self, dim_out: int = 10, freeze: bool = False, dim_sub: int = 10, deep_layer: bool = False, variant: str = ""
    ) -> None:
        """Puts the head of step (ii) on a trained sub classifier.

        Args:
          dim_out: C.
          freeze: whether to train batch norms and head only.
          dim_sub: S.
          deep_layer: whether to take the head of the notebook's second run.
          variant: a head by its name instead (flags.HEADS).
        """
        from finegrained_torch.networks import heads

        heads.replace_head(self.network, variant or ("deep_layer" if deep_layer else "plain"), dim_sub, dim_out)
        if freeze:  # DEVIATION FGL-D26: off by default, as the release ran, whatever its comment says
            heads.freeze_backbone(self.network)
        self.mode = "sup"


class MultiHead(Module):
    """Two linear heads on one backbone: L = alpha * coarse loss + (1 - alpha) * fine loss.

    Arguments that are not listed are those of `LitResnet`.

    Args:
      num_classes: S of `clsub`.
      num_superclasses: C of `clsup`.
      alpha: weight of the coarse loss, 0..1.
    Source: authors' models/MultiHead.py.
    """

    prefix = " sup"

    def __init__(
        self,
        learning_rate: float = 0.1,
        num_classes: int = 10,
        num_superclasses: int = 2,
        pretrained: bool | Mapping[str, Tensor] = False,
        alpha: float = 0.5,
        *,
        network: str = "resnet18",
        optimization: Optimization = RELEASED,
        mean: Any = (0.0,) * 3,
        std: Any = (1.0,) * 3,
    ):
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha {alpha}: 0 to 1")
        super().__init__(learning_rate, optimization, mean, std)
        self.alpha = alpha
        self.network = resnet.build(network, 1, _state(pretrained))
        width = self.network.embed_dim
        self.network.fc = nn.Identity()
        self.clsub, self.clsup = nn.Linear(width, num_classes), nn.Linear(width, num_superclasses)

    def logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] -> fine [B, S] and coarse [B, C]."""
        features = self.network(self.prepare(images))
        return self.clsub(features).float(), self.clsup(features).float()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of both heads: fine [B, S], coarse [B, C]."""
        fine, coarse = self.logits(images)
        return F.log_softmax(fine, 1), F.log_softmax(coarse, 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, fine, coarse = batch
        sub, sup = self.logits(self.augmented(images))
        loss = self.alpha * F.cross_entropy(sup, coarse) + (1 - self.alpha) * F.cross_entropy(sub, fine)
        self.log_epoch("train", loss, sup, coarse)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Looks at the coarse head only, as the release does."""
        images, _, coarse = batch
        _, sup = self.logits(images)
        self.log_epoch("val", F.cross_entropy(sup, coarse), sup, coarse)


def _state(pretrained: bool | Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
    """The state dict to start from; True looks for the file in data/weights."""
    if pretrained is True:
        from datasets.core import DATA_ROOT

        return resnet.find_pretrained(None, str(DATA_ROOT))[0]
    return None if pretrained is False else pretrained


def make_trainer(config: Config, folder: Path, callbacks: list[Callback], devices: int) -> Trainer:
    """Makes a Trainer without loggers; with several devices Lightning's own strategies.

    Without callbacks it is one for the range test, whose 100 steps no number of epochs cuts short.
    """
    device = runtime.pick_device(config.device)
    alone = [device.index or 0] if device.type == "cuda" else 1
    # DEVIATION FGL-D05: accelerator and devices, since gpus= is gone in Lightning 2
    # DEVIATION FGL-D33: --precision bf16-mixed or auto asks for autocast
    return Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=alone if devices == 1 else devices,
        strategy="auto" if devices == 1 else config.parallel,
        plugins=[LightningEnvironment()],  # a batch system's variables would make it a part of several tasks
        precision="bf16-mixed" if runtime.amp_of(device, AMP[config.precision]) else "32-true",
        max_epochs=config.max_epochs if callbacks else -1,
        min_epochs=config.min_epochs if callbacks else None,
        callbacks=callbacks,
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty() and bool(callbacks),
        enable_checkpointing=bool(callbacks),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=folder,
        benchmark=False,
    )


@torch.no_grad()
def log_probabilities(module: Module, items: Items, positions: np.ndarray, batch_size: int) -> np.ndarray:
    """Computes the log-probabilities of images, of the coarse head if there are two.

    Args:
      module: on its device; left in evaluation mode.
      items: images.
      positions: int64 [n], which images, in that order.
      batch_size: images at a time.
    Returns:
      float32 [n, outputs].
    """
    module.eval()
    outputs = []
    for at in torch.from_numpy(positions).split(batch_size):
        out = module(items.images[at].to(module.device))
        outputs.append((out[1] if isinstance(module, MultiHead) else out).float().cpu())
    return torch.cat(outputs).numpy() if outputs else np.zeros((0, 0), np.float32)


@torch.no_grad()
def features(module: LitResnet, items: Items, batch_size: int) -> Iterator[np.ndarray]:
    """Computes the features for every image in file order, un-augmented, in evaluation mode.

    Args:
      module: on its device.
      items: images.
      batch_size: images at a time.
    Yields:
      float32 [b, F], b up to batch_size.
    Source: authors' pipeline.py, features_extraction (forward hook on avgpool).
    """
    module.eval()
    for images in items.images.split(batch_size):
        yield module.network.features(module.prepare(images.to(module.device))).float().cpu().numpy()
