"""The device side of edgepack: verify a bundle, install it, serve generation, report status."""

__version__ = "0.1.0"
