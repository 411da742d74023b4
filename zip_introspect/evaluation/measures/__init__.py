"""Right or wrong, how well predicted, at what cost."""
