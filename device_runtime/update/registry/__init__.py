"""Bundles in OCI registries: the client that both sides use. Only the standard library for HTTP."""
