"""What is trained: the graph, the loop, evaluation, files and record of a run."""
