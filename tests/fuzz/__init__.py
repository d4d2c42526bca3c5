"""Coverage-guided fuzzing of what reads bundles, images and recordings.

A target is a module with `run(data)`, which may raise nothing (a refusal, `BundleError` say, is
caught there), `seeds()`, the inputs to start from, and `mutate(data, source)`, changes that random
bytes would not find. `python -m tests.fuzz TARGET --seconds N` runs one with atheris.
"""
