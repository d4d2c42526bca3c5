"""OpenAI's Responses API: its requests, answers and events, and the responses that are kept."""
