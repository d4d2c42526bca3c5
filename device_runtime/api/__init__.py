"""The HTTP API: parsing of requests, building of responses, and the routes that join them."""
