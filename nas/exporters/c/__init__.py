"""Generates C99 source from a trained network."""
