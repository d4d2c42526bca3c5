"""The worker process that holds the model, and its supervision."""
