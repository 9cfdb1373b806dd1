"""The backbones: what is fixed about each, the two heads on it, and the ImageNet weights that it may start from."""

from triplet_tf.config.initial_weights import DIGESTS, check_started_from, checkpoint_digests, imagenet_checkpoint
from triplet_tf.config.networks import NETS, TABLE, Net
from triplet_tf.nets.build import backbone, embedding_head
from triplet_tf.nets.restore import restore_imagenet, restored_variables, weight_decay_terms

__all__ = [
    "DIGESTS",
    "NETS",
    "TABLE",
    "Net",
    "backbone",
    "check_started_from",
    "checkpoint_digests",
    "embedding_head",
    "imagenet_checkpoint",
    "restore_imagenet",
    "restored_variables",
    "weight_decay_terms",
]
