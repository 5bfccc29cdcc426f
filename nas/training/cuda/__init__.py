"""Training engine for NVIDIA GPUs: several networks at a time, their steps captured as CUDA graphs."""
