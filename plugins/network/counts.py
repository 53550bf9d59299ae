"""What the network counts. One object, written by all of its parts, in the event loop only."""

from __future__ import annotations


class Counts:
    """Plain integers since the start; the names are those of `Network.counters`."""

    __slots__ = (
        "connect_failures",
        "connection_losses",
        "connects",
        "drop_auth",
        "drop_queue_full",
        "drop_stale",
        "drop_stopped",
        "drop_too_large",
        "drop_torn",
        "drop_unknown_peer",
        "tcp_accept_failures",
        "tcp_accepts",
        "tcp_bad_header",
        "tcp_bytes_in",
        "tcp_bytes_out",
        "tcp_evicted",
        "tcp_frames_in",
        "tcp_frames_out",
        "tcp_idle",
        "tcp_proofs",
        "tcp_slow",
        "udp_bad_length",
        "udp_bytes_in",
        "udp_bytes_out",
        "udp_errors_in",
        "udp_errors_out",
        "udp_frames_in",
        "udp_frames_out",
        "udp_full",
    )

    def __init__(self) -> None:
        self.drop_auth = 0
        """Datagrams, connections and frames refused: who made them does not know the secret."""
        self.drop_queue_full = 0
        """Frames refused: the peer's queue has no space."""
        self.drop_stale = 0
        """Frames that waited too long for a connection."""
        self.drop_stopped = 0
        """Frames given to a network that does not run."""
        self.drop_too_large = 0
        """Frames refused: no peer would read them."""
        self.drop_torn = 0
        """Frames of which a part was sent when their connection broke."""
        self.drop_unknown_peer = 0
        self.tcp_accept_failures = 0
        """Connections not accepted: no descriptors or memory."""
        self.tcp_accepts = 0
        self.tcp_bad_header = 0
        """Incoming connections closed: what came is no frame."""
        self.tcp_bytes_in = 0
        self.tcp_bytes_out = 0
        self.connect_failures = 0
        self.connects = 0
        self.tcp_evicted = 0
        """Incoming connections closed to make place for others."""
        self.tcp_frames_in = 0
        self.tcp_frames_out = 0
        self.tcp_idle = 0
        """Incoming connections of strangers closed: silent for too long."""
        self.connection_losses = 0
        """Outgoing connections lost after they had been made."""
        self.tcp_proofs = 0
        """Incoming connections whose other end has proved to know the secret."""
        self.tcp_slow = 0
        """Incoming connections closed: a frame took too long to arrive."""
        self.udp_bad_length = 0
        """Datagrams too short or too long for a frame."""
        self.udp_bytes_in = 0
        self.udp_bytes_out = 0
        self.udp_errors_in = 0
        self.udp_errors_out = 0
        """Frames that went to the TCP queue since the datagram was refused."""
        self.udp_frames_in = 0
        self.udp_frames_out = 0
        self.udp_full = 0
        """Frames that went to the TCP queue since the datagram buffer was full."""

    def as_dict(self) -> dict[str, int]:
        """All of them, by name."""
        return {name: getattr(self, name) for name in self.__slots__}
