"""TensorFlow and tf-slim: every module that builds a graph imports them from here, so that they are set up alike."""

from reproduction.runtime.tf_import import frameworks

tf1, slim = frameworks()
import tensorflow as tf  # noqa: E402 - after frameworks(), which sets what TensorFlow reads at import

__all__ = ["slim", "tf", "tf1"]
