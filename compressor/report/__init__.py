"""Measurements and their limits, and every form in which they are told."""
