"""How weights are quantized, as data."""
