"""The weights of a model: how they are quantized, and how the quantized ones are stored."""
