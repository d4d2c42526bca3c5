"""What ONNX Runtime GenAI's model builder needs around it."""
