"""Boosting Standard Classification Architectures Through a Ranking Regularizer (WACV 2020), in TensorFlow graphs."""
