"""The method as pure functions on arrays and tensors: uncertainty and filter, clusters, controls, agreement."""
