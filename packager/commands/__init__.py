"""The commands of `edgepack`, by subject. Each command turns its options into one call."""
