"""The viewer: a self-contained HTML page over a confusion matrix, responses and samples of any classifier."""
