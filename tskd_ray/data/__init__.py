"""Recorded, generated and stitched experience: in memory, on disk, in other formats."""
