"""The HTTP API: requests are parsed, responses are built, routes join them."""
