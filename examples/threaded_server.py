"""A node embedded in a threaded server: the same line server, with one thread for each connection.

    python examples/threaded_server.py CONFIG.yaml PORT

The blocking node may be used from every thread. It runs its event loop in a thread of its own; where
handlers keep the interpreter busy for long, `router: process` in the config keeps votes out of their way.
"""

from __future__ import annotations

import signal
import socketserver
import sys

from paxmux import BlockingNode, Options, PaxmuxError


class Handler(socketserver.StreamRequestHandler):
    """One connection."""

    server: LineServer

    def handle(self) -> None:
        for line in self.rfile:
            try:
                answer = self.answer(line.strip())
            except PaxmuxError as error:
                answer = f"error {error.code}: {error}".encode()
            self.wfile.write(answer + b"\n")

    def answer(self, command: bytes) -> bytes:
        if command == b"incr":
            return self.server.node.propose(0, b"1", smid=1).result or b""
        if command == b"get":
            return self.server.node.query(0, b"", smid=1)
        return b"expected incr or get"


class LineServer(socketserver.ThreadingTCPServer):
    """The server as it was, with a node."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int, node: BlockingNode) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.node = node


def main(config: str, port: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with BlockingNode(Options.from_yaml(config)) as node, LineServer(port, node) as server:
        print("ready", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopping", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
