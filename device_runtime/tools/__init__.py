"""Tool calls: definitions, syntaxes of the model families, grammars and parsers."""
