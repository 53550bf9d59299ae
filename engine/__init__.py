"""The contracts: options, errors, state machines, and what plugins must do. Knows no process."""
