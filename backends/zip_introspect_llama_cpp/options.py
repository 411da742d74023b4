"""What may be set when a GGUF file is opened, and what is derived where nothing is."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field

from zip_introspect.config import Settings

CacheType = Literal["f32", "f16", "q8_0"]

MOST_SLOTS = 256  # llama.cpp's own limit on sequence ids
_MEMORY_SHARE, _MOST_BYTES = 4, 2 << 30  # of the free memory, and in all, that cells take unless told
_GUESSED_MEMORY = 4 << 30
_FEWEST_CELLS, _MOST_CELLS = 256, 1 << 24


class LlamaCppOptions(Settings):
    """What `LlamaCppBackend.open` takes beside the model."""

    max_context: int | None = Field(
        None, ge=2, description="Tokens of one sequence; None is what the model names. The cells limit it too."
    )
    cells: int | None = Field(
        None,
        ge=2,
        le=1 << 30,
        description="Tokens of all sequences together, shared prompts counted once. None: what all slots "
        "need at full length, or what fits into a quarter of the free memory and 2 GiB.",
    )
    max_sequences: int | None = Field(None, ge=1, description="Unreleased sequences; None limits them by memory only.")
    slots: int = Field(
        64,
        ge=2,
        le=MOST_SLOTS,
        description="Sequences that hold cells at once; others are recomputed when needed.",
    )
    batch_size: int = Field(2048, ge=1, description="Tokens of one call of llama_decode.")
    prefix_cache: int = Field(
        4, ge=0, description="Released prompts whose cells are kept for prompts that begin alike; 0 keeps none."
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads; None is OMP_NUM_THREADS, else one for each core that may be used."
    )
    gpu_layers: int = Field(-1, ge=-1, description="Layers on the GPU, where llama.cpp was built for one; -1 is all.")
    flash_attention: bool | None = Field(
        None,
        description="None: off for cells in f32, whose precision it costs, and on a CPU for contexts beyond 1,024 "
        "tokens where the memory allows it, for there it is slower; else as llama.cpp sees fit.",
    )
    cache_type: CacheType | None = Field(
        None, description="Type of the cells. None: f32 for models in f32, f16 for all others."
    )
    repack: bool | None = Field(
        None,
        description="Lay quantised weights out anew for the CPU. None: unless it has AMX in a virtual machine, "
        "some of which grant AMX and stop the process at its first use.",
    )
    mmap: bool = Field(True, description="Map the file instead of reading it.")

    def resolved_threads(self) -> int:
        named = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
        return self.threads or (int(named) if named.isdecimal() and int(named) else usable_cores())

    def resolved_repack(self) -> bool:
        if self.repack is not None:
            return self.repack
        try:
            with open("/proc/cpuinfo", encoding="utf-8") as file:
                flags = file.read()
                return not ("amx_tile" in flags and "hypervisor" in flags)
        except OSError:
            return True

    def resolved_cells(self, context: int, bytes_per_cell: int) -> int:
        """Cells for sequences of up to `context` tokens."""
        if self.cells is not None:
            return self.cells
        affordable = min(free_memory() // _MEMORY_SHARE, _MOST_BYTES) // max(bytes_per_cell, 1)
        return max(min(self.slots * context, affordable, _MOST_CELLS), _FEWEST_CELLS)


def usable_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes that can be had without swapping, as the system says; a modest guess where it does not."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return _GUESSED_MEMORY
