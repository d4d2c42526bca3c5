"""Statements about a bundle, signed and written beside it: provenance, and the model's files."""
