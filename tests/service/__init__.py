"""Tests of the running service, over HTTP against Azurite."""
