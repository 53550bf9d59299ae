"""The `paxmux` command, and the scripts of the project."""
