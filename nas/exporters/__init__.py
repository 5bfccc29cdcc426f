"""Exports a trained network as files that run without `nas`."""
