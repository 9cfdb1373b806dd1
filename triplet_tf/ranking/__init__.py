"""The ranking losses as functions of labels and embeddings, in a TensorFlow graph."""

from triplet_tf.ranking.center import CENTER_LAMBDA, center_loss, center_update, new_centers
from triplet_tf.ranking.distances import batch_statistics, squared_distances
from triplet_tf.ranking.hard import adaptive_weight_loss, batch_hard_loss
from triplet_tf.ranking.semi_hard import semi_hard_loss

__all__ = [
    "CENTER_LAMBDA",
    "adaptive_weight_loss",
    "batch_hard_loss",
    "batch_statistics",
    "center_loss",
    "center_update",
    "new_centers",
    "semi_hard_loss",
    "squared_distances",
]
