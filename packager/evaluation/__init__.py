"""How far a quantized model is from its reference model."""
