"""The data of a run: images in their splits, planted label noise, tree files."""
