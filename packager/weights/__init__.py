"""Arithmetic on weights: blocks, k-quants, GPTQ."""
