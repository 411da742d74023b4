"""How far a prompt travels before the model moves: `python benchmarks/call_trace.py`.

One warm `generate` on the simulator, traced on every thread up to its first `advance`: calls that go from one file of
the core to another, and the files that take part. A call that comes back through another package (pydantic, contextlib)
counts from the last file of the core that it left; what the backend does within its own calls does not count.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import zip_introspect
from zip_introspect import GenerationConfig, IntrospectiveLLM
from zip_introspect.testing import simulator

CORE = str(Path(zip_introspect.__file__).parent)
BACKEND = simulator.__file__


class Watched(simulator.SimulatedBackend):
    """Says when it is first asked to advance."""

    moved = True

    def advance(self, *arguments: Any) -> Any:
        self.moved = True
        return super().advance(*arguments)


def travelled(prompt: str = "a question") -> tuple[int, list[str]]:
    """Calls from one file to another before the first `advance`, and the files."""
    backend = Watched()
    hops, files = 0, set()

    def file(frame: FrameType | None) -> str | None:
        while frame is not None and not frame.f_code.co_filename.startswith(CORE):
            frame = frame.f_back
        return frame.f_code.co_filename if frame else None

    def of_backend(frame: FrameType | None) -> bool:
        return frame is not None and (frame.f_code.co_filename == BACKEND or of_backend(frame.f_back))

    def watch(frame: FrameType, event: str, _: Any) -> None:
        nonlocal hops
        name = frame.f_code.co_filename
        if event != "call" or backend.moved or not name.startswith(CORE) or of_backend(frame):
            return
        files.add(name)
        hops += file(frame.f_back) != name

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
