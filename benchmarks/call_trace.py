"""How far a prompt travels before the model moves: `python benchmarks/call_trace.py`.

One warm `generate` on the simulator, traced on every thread up to its first `advance`: calls that go from one file of
the core to another, and the files that take part. Calls within a file do not count, nor do other packages and the
simulator itself; a call from outside the core counts where it comes back in.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import zip_introspect
from zip_introspect import GenerationConfig, IntrospectiveLLM
from zip_introspect.testing.simulator import SimulatedBackend

CORE = str(Path(zip_introspect.__file__).parent)


class Watched(SimulatedBackend):
    """Says when it is first asked to advance."""

    moved = True

    def advance(self, *arguments: Any) -> Any:
        self.moved = True
        return super().advance(*arguments)


def travelled(prompt: str = "a question") -> tuple[int, list[str]]:
    """Calls from one file to another before the first `advance`, and the files."""
    backend = Watched()
    hops, files = 0, set()

    def of_core(frame: FrameType | None) -> str | None:
        name = frame.f_code.co_filename if frame else ""
        return name if name.startswith(CORE) and "simulator" not in name and "testing" not in name else None

    def watch(frame: FrameType, event: str, _: Any) -> None:
        nonlocal hops
        if event != "call" or backend.moved or (name := of_core(frame)) is None:
            return
        files.add(name)
        hops += of_core(frame.f_back) != name

    threading.setprofile(watch)
    with IntrospectiveLLM(backend, GenerationConfig(max_samples=2)) as llm:
        llm.generate(prompt)
        sys.setprofile(watch)
        backend.moved = False
        llm.generate(prompt)
        sys.setprofile(None)
    threading.setprofile(None)
    return hops, sorted(str(Path(name).relative_to(CORE)) for name in files)


def main() -> None:
    """Print the count."""
    hops, files = travelled()
    print(f"{hops} calls from one file to another, over {len(files)} files: {', '.join(files)}")


if __name__ == "__main__":
    main()
