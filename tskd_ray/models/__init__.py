"""Networks that learn from trajectories, each with fit, predict, save and load."""
