"""Tests of the local environment."""
