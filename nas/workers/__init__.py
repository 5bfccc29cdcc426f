"""Where a candidate is trained: in this process, in worker processes or on a Ray cluster, behind one interface."""
