"""Sums for a small model, a question a line: `python examples/sums.py 300 > sums.jsonl`."""

from __future__ import annotations

import json
import random
import sys


def main(count: int) -> None:
    """Print distinct sums of two numbers up to 30, and what they come to."""
    pairs = [(a, b) for a in range(1, 31) for b in range(1, 31)]
    for a, b in random.Random(0).sample(pairs, count):
        print(json.dumps({"question": f"What is {a} + {b}?", "answer": str(a + b)}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
