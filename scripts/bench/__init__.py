"""Compare edgepack with other runtimes on this machine: `python -m scripts.bench`."""
