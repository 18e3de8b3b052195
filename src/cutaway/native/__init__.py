"""Kernels in C for processors: a decoder's forward without PyTorch between its operations."""
