"""Subclass deep neural networks (Gkalelis and Mezaris, MMM 2020) in PyTorch."""
