"""Results, as tables in the terminal and as a page beside the bundle."""
