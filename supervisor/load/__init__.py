"""The load harness: whole conversations against a gateway, at a rate that does not wait for the
server.

`campaign` is the file, `schedule` what is drawn from it before the start, `client` the connection,
`session` one user's conversation, `measures` what is found, `thresholds` what it is held to,
`report` what is written; `stub`, `faults`, `watch` and `server` are what stands round the server
under test; `run` puts them together.
"""
