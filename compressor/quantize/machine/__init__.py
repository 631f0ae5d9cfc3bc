"""What the processor, its memory and other processes are asked for, so that solvers need not know."""
