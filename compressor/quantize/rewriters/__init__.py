"""Methods that put quantizers around operators, in any graph."""
