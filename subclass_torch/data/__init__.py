"""The images of a run, as arrays and as training batches."""
