"""What is fixed about each backbone. Imports no framework: the flags need it before parsing.

Source: the released nets/ (scopes, end points, prefixes that are not restored) and config/base_config.py (checkpoints).
"""

from __future__ import annotations

from typing import NamedTuple


class Net(NamedTuple):
    """One value of `--net`.

    Attributes:
      scope: variable scope, as in the public ImageNet checkpoint.
      tap: end point whose map the embedding head reads.
      preprocess: pixel scaling that the checkpoint was trained with: inception_v1, vgg or densenet.
      excluded: prefixes of the model variables that are not restored from ImageNet.
      bn_decay: of the moving statistics.
      weight_decay: value of the L2 terms that are collected (and added under `--weight_decay on` only, STL-D02).
      checkpoint: ImageNet checkpoint below the pretrained folder.
      smallest: smallest frame side that the layers without padding allow.
    """

    scope: str
    tap: str
    preprocess: str
    excluded: tuple[str, ...]
    bn_decay: float
    weight_decay: float
    checkpoint: str
    smallest: int


TABLE = {
    "resnet50": Net(
        scope="resnet_v2_50",
        tap="block4/unit_3/bottleneck_v2",  # before postnorm and ReLU, as released (STL-D18)
        preprocess="inception_v1",
        excluded=("resnet_v2_50/logits",),
        bn_decay=0.997,
        weight_decay=1e-4,
        checkpoint="resnet_v2_50/resnet_v2_50.ckpt",
        smallest=1,
    ),
    "resnet50_v1": Net(
        scope="resnet_v1_50",
        tap="block4/unit_3/bottleneck_v1",
        preprocess="vgg",
        excluded=("resnet_v1_50/logits",),
        bn_decay=0.997,
        weight_decay=1e-4,
        checkpoint="resnet_v1_50/resnet_v1_50.ckpt",
        smallest=1,
    ),
    "inc4": Net(
        scope="InceptionV4",
        tap="Mixed_6h",  # as released; Mixed_7d is the last map (STL-D07)
        preprocess="inception_v1",
        excluded=("InceptionV4/Logits", "InceptionV4/AuxLogits"),
        bn_decay=0.9997,
        weight_decay=4e-5,
        checkpoint="inception_v4/inception_v4.ckpt",
        smallest=107,
    ),
    "inc3": Net(  # named by the released configuration, its module missing: an extension of ours
        scope="InceptionV3",
        tap="Mixed_7c",
        preprocess="inception_v1",
        excluded=("InceptionV3/Logits", "InceptionV3/AuxLogits"),
        bn_decay=0.9997,
        weight_decay=4e-5,
        checkpoint="inception_v3.ckpt",
        smallest=107,
    ),
    "densenet161": Net(
        scope="densenet161",
        tap="dense_block4",  # before the final BN and ReLU
        preprocess="densenet",
        excluded=("densenet161/logits",),
        bn_decay=0.999,
        weight_decay=1e-4,
        checkpoint="tf-densenet161/tf-densenet161.ckpt",
        smallest=29,
    ),
    "mobile": Net(
        scope="MobilenetV1",
        tap="Conv2d_13_pointwise",
        preprocess="inception_v1",
        excluded=("MobilenetV1/Logits",),
        bn_decay=0.9997,
        weight_decay=1e-4,
        checkpoint="mobilenet_v1_1.0_224/mobilenet_v1_1.0_224.ckpt",
        smallest=1,
    ),
}
NETS = tuple(TABLE)
