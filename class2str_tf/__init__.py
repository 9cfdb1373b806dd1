"""Class2Str: End to End Latent Hierarchy Learning (ICPR 2018), in TensorFlow graphs with tf-slim layers."""
