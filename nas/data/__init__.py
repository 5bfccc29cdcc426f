"""Datasets by name or folder, as uint8 tensors."""
