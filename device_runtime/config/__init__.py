"""The configuration of the service: its options, their sources and their types."""
