"""Offline work behind the commands: backup, doctor, replay, migration."""
