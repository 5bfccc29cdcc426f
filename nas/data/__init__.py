"""Datasets by name or folder, as tensors of bytes."""
