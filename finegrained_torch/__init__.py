"""Fine-grained labels by uncertainty, UMAP and HDBSCAN (G. Capitani, 2022) on PyTorch Lightning."""
