"""Training of networks: a readable reference trainer and a fast engine for each kind of device."""
