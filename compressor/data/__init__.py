"""Calibration and held-out data: text, arrays and pictures become calls of a graph."""
