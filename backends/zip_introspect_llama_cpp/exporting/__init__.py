"""Checkpoints of transformers written as GGUF files."""
