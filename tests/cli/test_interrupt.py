"""Ctrl-C in the middle of a search leaves the terminal as it was."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time

HIDE_CURSOR, SHOW_CURSOR = b"\x1b[?25l", b"\x1b[?25h"
PATIENCE = 120.0  # seconds


def read_until(terminal: int, wanted: bytes, process: subprocess.Popen[bytes]) -> bytes:
    """What the terminal shows up to `wanted`, or up to the end of the process."""
    shown, deadline = b"", time.monotonic() + PATIENCE
    while wanted not in shown and time.monotonic() < deadline:
        ended = process.poll() is not None  # before the look, so that its last words are read
        if select.select([terminal], [], [], 0.2)[0]:
            shown += os.read(terminal, 4096)
        elif ended:
            break
    return shown


def test_an_interrupted_search_shows_the_cursor_again_and_exits_with_130(tiny_model: str) -> None:
    terminal, inside = pty.openpty()
    before = termios.tcgetattr(inside)
    # Random weights end a sample after some 300 tokens by chance, so it takes many for a search to last.
    long = ["--max-new-tokens", "90000", "--strategy", "best_of_n", "--max-samples", "300"]
    process = subprocess.Popen(
        [sys.executable, "-m", "zip_introspect", "ask", "1+1", "--model", tiny_model, *long],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
        # A shell's background jobs ignore the signal, and what they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"},
    )
    try:
        shown = read_until(terminal, b"active", process)
        assert HIDE_CURSOR in shown, shown.decode(errors="replace")
        process.send_signal(signal.SIGINT)
        after = read_until(terminal, b"interrupted", process)
        assert process.wait(PATIENCE) == 130, after.decode(errors="replace")
        assert SHOW_CURSOR in after
        assert b"Traceback" not in after
        assert termios.tcgetattr(inside) == before
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(inside)
