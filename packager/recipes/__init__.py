"""Recipes for the quantization of weights, as data."""
