"""Diffusion over trajectories: schedules, samplers, DDR-I and DDR-II, rollouts."""
