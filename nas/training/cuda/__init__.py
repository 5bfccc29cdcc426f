"""Training engine for NVIDIA GPUs: trains several networks at a time, with steps captured as CUDA graphs."""
