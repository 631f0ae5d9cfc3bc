"""Standard operators, computed on numpy arrays."""
