"""Measurement of a release on its device: speed, memory, energy, and the limit of its memory."""

ROUNDS = 3
"""Rounds through all that is measured, unless others are asked for."""
