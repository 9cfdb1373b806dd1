"""The data sets as arrays and batches, and which images train and validate."""
