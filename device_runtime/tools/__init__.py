"""Tool calls: definitions, the syntaxes of the families, grammars and parsers."""
