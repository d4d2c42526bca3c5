"""Text to tokens and back, and chat templates, exactly as in transformers."""
