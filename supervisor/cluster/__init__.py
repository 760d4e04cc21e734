"""Several servers that share the work on one store."""
