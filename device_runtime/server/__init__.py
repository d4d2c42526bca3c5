"""The HTTP server around the API: connections, keys, the chat page, the access log."""
