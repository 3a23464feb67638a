"""One strict configuration tree: what may be set, and how YAML and overrides become it."""
