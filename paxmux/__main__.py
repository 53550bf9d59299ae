"""`python -m paxmux` is the command `paxmux`."""

from __future__ import annotations

import sys

from paxmux.tools.main import main

if __name__ == "__main__":
    sys.exit(main())
