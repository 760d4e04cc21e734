"""What holds a sandbox: launcher, arguments, the walls of this host, and their proof."""
