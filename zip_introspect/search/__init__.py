"""The engine that owns a model, and the search of one prompt."""
