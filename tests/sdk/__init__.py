"""Tests with the official Graph SDKs."""
