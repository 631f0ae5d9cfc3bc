"""Writing into a graph."""
