"""The cells of sequences: one context for all of them, shared prompts, room made and recomputed."""
