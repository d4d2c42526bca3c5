"""Ollama's API, as a translation onto chat and completion requests."""
