"""What each execution provider needs and can run."""
