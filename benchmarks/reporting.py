"""What every benchmark says of its machine and its rows: the device's name, a Markdown table, a JSON file."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from zip_introspect.backend.contract import BackendInfo


def processor() -> str:
    """The name of the CPU, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{named[0]}, {len(named)} cores" if named else platform.processor() or platform.machine()


def device_name(info: BackendInfo) -> str:
    """The name of the GPU or CPU that runs a model."""
    if info.backend == "transformers" and info.device.startswith("cuda"):
        import torch  # a llama.cpp installation has none

        return str(torch.cuda.get_device_name(info.device))
    return processor()


def table(header: Sequence[str], rows: Iterable[Sequence[str | int]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def write(path: Path | None, report: dict[str, Any]) -> None:
    """Keep the figures as JSON, where a file is named."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
