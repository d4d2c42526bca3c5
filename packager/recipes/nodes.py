"""Names of the graph's nodes that recipes treat by themselves."""

HEAD = "/lm_head/MatMul"
EMBEDDING = "/model/embed_tokens/Gather"
