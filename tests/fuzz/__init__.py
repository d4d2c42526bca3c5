"""Coverage-guided fuzzing of what reads bundles.

A target is a module with `run(data)`, which may raise nothing (a refusal, `BundleError`, is caught
there), `seeds()`, the inputs to start from, and `mutate(data, source)`, changes that random bytes
would not find. `python -m tests.fuzz TARGET --seconds N` runs one with atheris.
"""
