"""Training loops: one network, many students, and what they learn from."""
