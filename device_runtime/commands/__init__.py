"""The commands of `edgepack-runtime`: each parses options, makes one call and prints the result.

Heavy imports are inside the commands, so that help and completion are instant.
"""
