"""The engine for processors: machine code written for each network, an example a lane.

Three things make it fast. Examples lie side by side in the lanes of the vector registers, so that convolutions of any
channel count run near the processor's peak. A block of as many examples goes through all operations between two batch
norms while it lies in the cache. And no random number is drawn that a hash can give.
"""
