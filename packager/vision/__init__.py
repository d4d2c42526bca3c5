"""Models that see: their vision graphs, and the folders that the engine loads."""
