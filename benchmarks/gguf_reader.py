"""Opening a GGUF file: `python benchmarks/gguf_reader.py [MODEL.gguf]`.

The gguf package's own reader against this library's, which is its subclass: it takes arrays whole, and does not read
beyond the file's end. Both map the file; what takes time is the vocabulary.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from gguf import GGUFReader

from zip_introspect.demo.embedded import DEMO_GGUF
from zip_introspect_llama_cpp import gguf_file


def main() -> None:
    """Print the seconds of both, by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=DEMO_GGUF)
    model = parser.parse_args().model
    seconds: dict[str, list[float]] = {"gguf's own": [], "ours": []}
    for _ in range(3):
        for name, read in (("gguf's own", GGUFReader), ("ours", gguf_file.read)):
            begun = time.perf_counter()
            reader = read(model)
            seconds[name].append(time.perf_counter() - begun)
    tokens = len(gguf_file.value(reader, "tokenizer.ggml.tokens"))
    own, ours = (min(found) for found in seconds.values())
    print(f"{model.name}, {tokens:,} tokens: gguf's own reader {own:.2f} s, ours {ours:.2f} s: {own / ours:.0f} times")


if __name__ == "__main__":
    main()
