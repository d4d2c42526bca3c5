"""Passes and corrections around ONNX Runtime GenAI's model builder."""
