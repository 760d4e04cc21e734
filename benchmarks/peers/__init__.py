"""The same app elsewhere: what others would do with a message."""
