"""Reads the log of a node, running or stopped, and never writes to its data directory."""
