"""How a message is handled: from its acceptance to the outcome of its run."""
