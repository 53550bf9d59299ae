"""Networks: how frames get from node to node (contract: `engine/network.py`)."""
