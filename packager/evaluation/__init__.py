"""Quality of a quantized model, measured against its reference model."""
