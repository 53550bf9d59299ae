"""Storage: how a worker's log is kept (contract: `engine/storage.py`)."""
