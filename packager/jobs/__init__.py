"""Heavy work, each kind in a process of its own."""
