"""What the operating system gives us. Nothing here knows an app."""
