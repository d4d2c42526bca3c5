"""JSON schemas as grammars for the engine."""
