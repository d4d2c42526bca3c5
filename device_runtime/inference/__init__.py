"""The engine: prefill, decode, sampling and KV caches."""
