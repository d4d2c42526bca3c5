"""Reports of results: tables in the terminal, and an HTML page beside the bundle."""
