"""Many requests on one artifact: backends that batch continuously, a thread that owns one, and HTTP over it."""
