"""The command line: parses options, calls one function of `nas.commands`, prints the result."""
