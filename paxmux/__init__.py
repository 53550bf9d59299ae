"""paxmux: replicated state machines with Paxos, many groups on all cores."""

__version__ = "0.1.0"
