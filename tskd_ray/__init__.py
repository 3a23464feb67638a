"""TSKD on Ray: augment an offline-RL dataset with diffusion and stitching, distil it to a policy."""
