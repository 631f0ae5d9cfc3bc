"""A pass is believed when what it made cannot be told from the original."""
