"""The inference process, which holds the model, and its supervisor."""
