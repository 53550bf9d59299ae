"""State machines that come with paxmux."""
