"""Networks as values: layers, what they cost, and how they look. No torch until a network is built."""
