"""Training engine for CPUs: machine code generated for each network, one example in each SIMD lane.

Three things make it fast. Each lane of a vector register holds a different example, so convolutions of any channel
count run near the CPU's peak. A block (as many examples as there are lanes) goes through all operations between two
batch norms while it is in the cache. Dropout masks are computed by a hash instead of drawn from a random generator.

In this package, a docstring "Writes f(a, b)" belongs to a function that writes and returns a kernel with the arguments
a and b.
"""
