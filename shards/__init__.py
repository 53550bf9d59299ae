"""The processes: node, router, workers, and the rings between them."""
