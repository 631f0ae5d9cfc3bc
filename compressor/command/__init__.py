"""What the command line is made of: options are read, outcomes shown, and every end is a line and an exit code."""
