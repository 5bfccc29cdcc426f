"""A trained network as C99 source."""
