"""Ladders: models above models, asked in turn until one is sure enough."""
