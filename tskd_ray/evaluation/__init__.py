"""Scores in the environment and fidelity of augmented data."""
