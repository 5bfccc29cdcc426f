"""Training of one network: a reference trainer to read, and a fast engine for each kind of device."""
