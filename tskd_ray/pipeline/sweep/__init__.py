"""Sweeps: trials that share their artifacts, and the final run of the best."""
