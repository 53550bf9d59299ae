"""Whether this installation is a compiled one (docs/performance.md): all of its hot modules are, or none.

It says so, and changes nothing.
"""

from __future__ import annotations

from typing import Final

from paxmux.engine.paxos import ballot

COMPILED: Final = not ballot.__file__.endswith(".py")
