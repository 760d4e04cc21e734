"""What apps may ask for: one file a resource, on the stores below."""
