"""What a sweep's folder tells about the sweep, and its HTML report."""
