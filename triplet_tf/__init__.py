"""Boosting Standard Classification Architectures Through a Ranking Regularizer (WACV 2020), in TensorFlow graphs."""

import os

# what TensorFlow reads when it is imported: tf-slim's layers need Keras 2
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
