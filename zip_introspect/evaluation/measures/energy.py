"""Energy over a span of time, where the machine tells it: RAPL's counters and NVML's.

Both count what the whole machine takes, whoever makes it work. RAPL (Linux, /sys/class/powercap) counts processor
packages and, on servers, their memory; its files are often readable by root alone. NVML counts NVIDIA GPUs from Volta
on, and needs the package nvidia-ml-py (the extra `energy`). What tells nothing is left out.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

POWERCAP = Path("/sys/class/powercap")
_SEPARATE = "dram"
"""Of the zones within a package, what its own counter leaves out."""


@dataclass(frozen=True)
class Energy:
    """What was taken."""

    joules: float
    sources: tuple[str, ...]
    """Who counted: "RAPL", "NVML"."""


@dataclass
class _Counter:
    """One that only rises, until it begins again at zero."""

    source: str
    read: Callable[[], float]
    """Joules; OSError or ValueError where it tells nothing."""
    range: float | None = None
    """Joules at which it begins again; None where it does not."""
    last: float = 0.0
    sum: float = 0.0

    def update(self) -> None:
        now = self.read()
        passed = now - self.last
        if passed < 0:
            # Without a range it was reset, as by a driver that was loaded anew: what it counts since then is known.
            passed = passed + self.range if self.range is not None else now
        self.last, self.sum = now, self.sum + passed


class EnergyMeter:
    """A span of time whose energy is counted: `with EnergyMeter() as meter: ...`, then `meter.energy`.

    Args:
        powercap: where RAPL's zones lie.
    """

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._powercap = powercap
        self._counters: list[_Counter] = []
        self._close: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        gpus, self._close = _nvml()
        finders: list[Callable[[], list[_Counter]]] = [partial(_rapl, self._powercap), lambda: gpus]
        for find in finders:
            try:
                counters = find()
                for counter in counters:
                    counter.last = counter.read()
            except (OSError, ValueError):  # part of a machine's energy would pass for all of it
                continue
            self._counters += counters
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.update()
        self._close()

    def update(self) -> None:
        """Read the counters. To be called at least every few minutes: RAPL's begin again after about an hour of work,
        and a second time would pass unseen."""
        lost = set()
        for counter in self._counters:
            try:
                counter.update()
            except (OSError, ValueError):
                lost.add(counter.source)
        self._counters = [counter for counter in self._counters if counter.source not in lost]

    @property
    def energy(self) -> Energy | None:
        """From the beginning to the last reading; None where nothing tells it."""
        if not self._counters:
            return None
        sources = dict.fromkeys(counter.source for counter in self._counters)
        return Energy(sum(counter.sum for counter in self._counters), tuple(sources))


def _rapl(powercap: Path) -> list[_Counter]:
    """Each package once, and its memory; not "psys", which holds the packages, nor their cores."""
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):  # AMD's processors are under this name too
        name = (zone / "name").read_text(encoding="ascii").strip()
        top = zone.name.count(":") == 1
        if name.startswith("package") if top else name == _SEPARATE:
            span = _microjoules(zone / "max_energy_range_uj")
            found.append(_Counter("RAPL", partial(_microjoules, zone / "energy_uj"), span))
    return found


def _microjoules(file: Path) -> float:
    return int(file.read_text(encoding="ascii")) / 1e6


def _nvml() -> tuple[list[_Counter], Callable[[], None]]:
    """GPUs that count, and what ends the session with their driver."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return [], lambda: None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # no driver
        return [], lambda: None

    def reading(handle: Any) -> Callable[[], float]:
        def read() -> float:
            try:
                return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3  # millijoules
            except nvml.NVMLError as error:
                raise OSError(str(error)) from error

        return read

    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(place) for place in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:  # a device that is lost
        return [], nvml.nvmlShutdown
    return [_Counter("NVML", reading(handle)) for handle in handles], nvml.nvmlShutdown
