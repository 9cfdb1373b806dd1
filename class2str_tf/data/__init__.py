"""From a data set to batches inside the graph."""
