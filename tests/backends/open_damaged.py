"""Opens a GGUF file with a few bytes changed, time after time: `python open_damaged.py FILE SCRATCH COUNT SEED`.

In a process of its own, so that a crash of llama.cpp's is seen as one. The number of each try is printed before it.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from gguf import GGUFReader

from zip_introspect.config import SamplingParams
from zip_introspect.errors import ZipIntrospectError
from zip_introspect_llama_cpp import LlamaCppBackend

LONG = 400  # of arrays, the first bytes only: one token is like another


def use(path: Path) -> None:
    """Open a file and draw from it, as far as it goes."""
    try:
        backend = LlamaCppBackend.open(path, threads=1, cells=256)
    except ZipIntrospectError:
        return
    try:
        (prompt,) = backend.prefill([backend.encode("What is 3+4?")])
        backend.advance(backend.fork(prompt.sequence, [0, 1], SamplingParams()), [3, 3])
    except ZipIntrospectError:
        pass
    finally:
        backend.close()


def main(source: Path, scratch: Path, count: int, seed: int) -> None:
    reader, whole, rng = GGUFReader(source), source.read_bytes(), random.Random(seed)
    spans = [
        (field.offset, min(sum(int(part.nbytes) for part in field.parts), LONG))
        for field in (*reader.fields.values(), *(tensor.field for tensor in reader.tensors))
    ]
    for number in range(count):
        start, size = rng.choice(spans)
        at = start + rng.randrange(size)
        new = rng.choice([rng.randbytes(1), b"\xff" * 4, bytes(4), rng.choice([1, 3, 64, 2**20]).to_bytes(4, "little")])
        print(number, at, new.hex(), flush=True)
        scratch.write_bytes(whole[:at] + new + whole[at + len(new) :])
        use(scratch)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
