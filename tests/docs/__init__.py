"""Tests of the description and the page, with tools of their own."""
