"""Energy over a span, from counters that begin again, cannot be read, or are not there."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from zip_introspect.evaluation.measures.energy import Energy, EnergyMeter

SPAN = 262_143_328_850


class Zones:
    """A tree like /sys/class/powercap, whose counters stand where they are put: in microjoules."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for zone, name in (
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "core"),
            ("intel-rapl:0:1", "dram"),
            ("intel-rapl:1", "package-1"),
            ("intel-rapl:2", "psys"),
            ("intel-rapl-mmio:0", "package-0"),
        ):
            (root / zone).mkdir()
            (root / zone / "name").write_text(name + "\n")
            (root / zone / "max_energy_range_uj").write_text(f"{SPAN}\n")
            self.put(zone, 0)
        (root / "intel-rapl").mkdir()

    def put(self, zone: str, microjoules: int) -> None:
        (self.root / zone / "energy_uj").write_text(f"{microjoules}\n")


@pytest.fixture
def zones(tmp_path: Path) -> Zones:
    return Zones(tmp_path)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def test_packages_and_their_memory_are_counted_once(zones: Zones) -> None:
    for place, zone in enumerate(sorted(path.name for path in zones.root.glob("*:*"))):
        zones.put(zone, 10**place)
    with EnergyMeter(zones.root) as meter:
        for zone, joules in (("intel-rapl:0", 5), ("intel-rapl:0:1", 2), ("intel-rapl:1", 1)):
            before = int((zones.root / zone / "energy_uj").read_text())
            zones.put(zone, before + joules * 1_000_000)
        for zone in ("intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"):
            zones.put(zone, 99_000_000)
    assert meter.energy is not None
    assert meter.energy.joules == pytest.approx(8.0)
    assert meter.energy.sources == ("RAPL",)


def test_a_counter_that_begins_again_loses_nothing_between_two_readings(zones: Zones) -> None:
    zones.put("intel-rapl:0", SPAN - 3_000_000)
    with EnergyMeter(zones.root) as meter:
        zones.put("intel-rapl:0", 1_000_000)
        meter.update()
        assert meter.energy == Energy(pytest.approx(4.0), ("RAPL",))  # type: ignore[arg-type]
        zones.put("intel-rapl:0", SPAN - 1_000_000)
        meter.update()
        zones.put("intel-rapl:0", 500_000)
    assert meter.energy is not None
    assert meter.energy.joules == pytest.approx(SPAN / 1e6 + 3.5)


def test_part_of_a_machine_is_not_given_for_all_of_it(zones: Zones) -> None:
    for file in ("energy_uj", "name", "max_energy_range_uj"):
        kept = (zones.root / "intel-rapl:1" / file).read_text()
        (zones.root / "intel-rapl:1" / file).unlink()
        with EnergyMeter(zones.root) as meter:
            pass
        assert meter.energy is None
        (zones.root / "intel-rapl:1" / file).write_text(kept)
    with EnergyMeter(zones.root) as meter:
        (zones.root / "intel-rapl:1" / "energy_uj").write_text("")
    assert meter.energy is None


def test_a_machine_that_tells_nothing_has_no_energy(tmp_path: Path) -> None:
    with EnergyMeter(tmp_path / "none") as meter:
        meter.update()
    assert meter.energy is None


class Driver(types.ModuleType):
    """NVML with two GPUs, whose counters stand where they are put: in millijoules."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.counters = [1_000, 50_000]
        self.without = -1
        self.closed = False

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.counters:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.closed = True

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.counters)

    def nvmlDeviceGetHandleByIndex(self, place: int) -> int:  # noqa: N802
        return place

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        if handle == self.without:
            raise self.NVMLError("Not Supported")
        return self.counters[handle]


def test_gpus_count_beside_the_processor(zones: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    with EnergyMeter(zones.root) as meter:
        zones.put("intel-rapl:0", 2_000_000)
        driver.counters = [4_000, 51_000]
    assert meter.energy == Energy(pytest.approx(6.0), ("RAPL", "NVML"))  # type: ignore[arg-type]
    assert driver.closed
    with EnergyMeter(zones.root / "none") as meter:
        driver.counters = [500, 51_000]  # the driver was loaded anew
    assert meter.energy == Energy(pytest.approx(0.5), ("NVML",))  # type: ignore[arg-type]


def test_a_gpu_that_does_not_count_or_has_no_driver_is_left_out(zones: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    driver.without = 1
    with EnergyMeter(zones.root) as meter:
        driver.counters[0] += 1_000
    assert meter.energy == Energy(0.0, ("RAPL",))
    driver.counters = []
    with EnergyMeter(zones.root) as meter:
        pass
    assert meter.energy == Energy(0.0, ("RAPL",))
