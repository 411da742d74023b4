"""What it takes until something happens: `python benchmarks/start_up.py [--rounds 5] [--out start_up.json]`.

Each row is a process of its own; rows take turns, and the quickest of the rounds counts, for all else is the machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from benchmarks.reporting import processor, table, write

ROWS = {
    "python": ["-c", "pass"],
    "import numpy": ["-c", "import numpy"],
    "import numpy, pydantic": ["-c", "import numpy, pydantic"],
    "import zip_introspect": ["-c", "import zip_introspect"],
    "zip-introspect --help": ["-m", "zip_introspect", "--help"],
    "zip-introspect demo, transformers": ["-m", "zip_introspect", "demo", "--backend", "transformers"],
    "zip-introspect demo, llama-cpp": ["-m", "zip_introspect", "demo", "--backend", "llama-cpp"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="JSON file for the figures")
    options = parser.parse_args()
    rows = {name: row for name, row in ROWS.items() if "llama-cpp" not in name or find_spec("llama_cpp")}
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(options.rounds + 1):  # the first writes the byte code, and is not counted
        for name, arguments in rows.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - begun)
    best = {name: min(times[1:]) for name, times in seconds.items()}
    over = best["import zip_introspect"] - best["import numpy"]
    print(f"{processor()}; the quickest of {options.rounds} rounds\n")
    print(table(["process", "seconds"], [(name, f"{value:.2f}") for name, value in best.items()]))
    print(f"\nimport zip_introspect takes {over:.2f} s more than import numpy.")
    write(
        options.out,
        {"device": processor(), "rounds": options.rounds, "seconds": best, "import_over_numpy": over},
    )


if __name__ == "__main__":
    main()
