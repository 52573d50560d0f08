"""Unit tests: a file per module, no service and no storage."""
