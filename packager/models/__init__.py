"""Source models: resolving, fetching and checking them, and reading their files."""
