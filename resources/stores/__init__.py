"""What keeps the data under the resources: Redis, the way out to HTTP, Graphite."""
