"""How a process lives: which one takes a run, how it is started, spoken to, measured and ended."""
