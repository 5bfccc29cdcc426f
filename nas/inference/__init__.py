"""Inference of a network as a list of steps with an exact memory plan, from its architecture alone."""
