"""The comparison with other systems that replicate with consensus: same machine, same work, one after the
other."""
