"""The replaceable parts, each behind a contract of `paxmux.engine` and loaded by its dotted path."""
