"""How a network is trained and judged: a reference trainer to read, and an engine for each kind of device."""
