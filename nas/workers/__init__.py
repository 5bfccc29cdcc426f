"""Training of candidates in this process, in worker processes or on a Ray cluster, behind one interface."""
