"""What holds a sandbox: the launcher, its arguments, the walls of this host, and the proof that
they hold.
"""
