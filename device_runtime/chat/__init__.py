"""The terminal chat, and the client of the local service."""
