"""Suites that show whether any backend keeps its contract. They need pytest, and nothing of ours imports them."""
