"""The paper's ideas as functions on arrays and tensors."""
