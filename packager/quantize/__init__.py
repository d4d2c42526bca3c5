"""Turn a model into an ONNX GenAI folder for a device, and prove that it runs."""
