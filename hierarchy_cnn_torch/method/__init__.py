"""The ideas of the paper as functions on arrays and tensors."""
