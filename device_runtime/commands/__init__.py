"""The commands of `edgepack-runtime`: options in, one call, results out.

Heavy imports stay inside the commands, so that help and completion are instant.
"""
