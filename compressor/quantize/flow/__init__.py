"""Calibration data on its way through a graph, product by product."""
