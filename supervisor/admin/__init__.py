"""The admin port: what operators, the command line and the console ask the server."""
