"""The states of sequences: batched, shared, shrunk, evicted and computed again."""
