"""Networks as immutable values: layers, cost and diagram. torch is imported only when a network is built."""
