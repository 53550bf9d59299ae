"""The tests. Run them from the project's folder: `tools/test`."""
