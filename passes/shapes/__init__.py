"""What is known of shapes before a run, as polynomials of symbols."""
