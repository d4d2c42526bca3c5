"""Build an ONNX GenAI folder of a model for a device, check that it runs, and measure it."""
