"""The protocol: leaderless Multi-Paxos, as pure code.

Nothing here does I/O, reads a clock, draws a random number of its own or logs. A step takes the
time and a message and appends what should happen to an `Effects`; the worker's turn carries it out.
"""
