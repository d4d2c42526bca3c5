"""Bundles to and from OCI registries. The client is the device's: `device_runtime.update.registry`.

oras-py (0.2.41) was considered: its uploads and downloads cannot be resumed, and it does not list
referrers in registries that lack the API for them.
"""
