"""A graph read backwards, as what it computes."""
