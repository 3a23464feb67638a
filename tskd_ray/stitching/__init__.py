"""One epoch of trajectory stitching (Algorithm 4), exact."""
