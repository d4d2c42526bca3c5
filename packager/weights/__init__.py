"""Weights of a model: quantization algorithms, and storage of quantized weights."""
