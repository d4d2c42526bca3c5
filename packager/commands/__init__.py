"""The commands of `edgepack`, by subject. Each turns its options into one call."""
