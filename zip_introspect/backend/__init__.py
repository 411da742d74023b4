"""For those who write a backend: the contract, and what keeps prompts, texts, random streams and sequences right."""
