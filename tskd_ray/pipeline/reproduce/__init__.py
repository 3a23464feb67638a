"""`tskd reproduce`: the paper's tables and figures, and what a sceptic would ask beside."""
