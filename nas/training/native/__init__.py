"""Training engine for processors: machine code generated for each network, one example in each SIMD lane.

Three things make it fast. Examples lie side by side in the lanes of the vector registers, so convolutions of any
channel count run near the processor's peak. A block of that many examples goes through all operations between two batch
norms while it lies in the cache. No random number is drawn where a hash can replace it.
"""
