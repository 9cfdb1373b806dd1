"""The head of a network: replaced between the steps of fine-tuning, and which parameters stay trainable."""

from __future__ import annotations

from torch import nn

from finegrained_torch.flags import HEADS
from finegrained_torch.networks.resnet import Legacy, Network, SharedLinear


def replace_head(network: Network, variant: str, sub_classes: int, classes: int) -> None:
    """Puts the head of step (ii) of fine-tuning on a network trained on S fine labels; the backbone stays as it is.

    Args:
      network: with a Linear(512, S) head; changed in place.
      variant: "plain": new Linear(512, C). "deep_layer": Dropout(0.5), new Linear(512, S), new Linear(S, C).
        "keep_sub_head": the trained Linear(512, S), new Linear(S, C). No non-linearity in between. The new layer of
        "plain" has S + C outputs in the network of the released main.py, of which the last C are read.
      sub_classes: S.
      classes: C.
    Raises:
      ValueError: unknown variant.
    Source: authors' pipeline.py (plain), notebook run 2 (deep_layer), pipeline.png and STRATEGIES.png (keep_sub_head).
    Deviation: FGL-D27.
    """
    width = network.embed_dim
    if variant == "plain" and isinstance(network, Legacy):
        network.fc = SharedLinear(width, classes, before=sub_classes)
    elif variant == "plain":
        network.fc = nn.Linear(width, classes)
    elif variant == "deep_layer":
        network.fc = nn.Sequential(nn.Dropout(0.5), nn.Linear(width, sub_classes), nn.Linear(sub_classes, classes))
    elif variant == "keep_sub_head":  # DEVIATION FGL-D27: drawn in the authors' diagrams, never coded
        network.fc = nn.Sequential(network.fc, nn.Linear(sub_classes, classes))
    else:
        raise ValueError(f"{variant!r} is not one of {', '.join(HEADS)}")


def freeze_backbone(network: nn.Module) -> None:
    """Leaves trainable only batch norms (those of the shortcuts too) and the head, chosen by module type.

    Source: the authors' unused `freeze=True`, which matched names and so froze the shortcuts' batch norms.
    """
    network.requires_grad_(False)
    for module in network.modules():  # DEVIATION FGL-D26: by module type, so the shortcuts' batch norms train too
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.requires_grad_(True)
    network.fc.requires_grad_(True)  # type: ignore[union-attr]
