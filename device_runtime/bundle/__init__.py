"""The bundle format: what the host writes and the device reads."""
