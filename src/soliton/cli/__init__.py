"""The command line: parse, call the API, print. One module per family of commands."""
