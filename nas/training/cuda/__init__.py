"""The engine for NVIDIA GPUs: several networks at a time, each step a CUDA graph."""
