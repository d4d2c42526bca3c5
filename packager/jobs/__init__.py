"""Heavy work, each piece of it in a process of its own."""
