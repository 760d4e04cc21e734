"""The load harness: whole conversations, at a rate that does not wait for the server.

`reading` makes a `campaign` of the file, and `schedule` draws its sessions before the start.
`client` is the connection, `session` one user's conversation, `measures` what is measured,
`thresholds` what it must hold. `summary`, `compare` and `report` make the results, `screen` shows
them. `stub`, `watch` and `server` surround the server under test; `run` puts them together.
"""
