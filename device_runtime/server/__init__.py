"""The HTTP server around the API: connections, API keys, the chat page, the access log."""
