"""One function for each command of `nas`; together they are the Python interface."""
