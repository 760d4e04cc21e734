"""What the admin port says and does."""
