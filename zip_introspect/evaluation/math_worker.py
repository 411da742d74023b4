"""math-verify as a process of its own: what a text makes sympy do ends with the process, whatever it is.

A line of JSON in, `[text, expected]`, is a line of JSON out, `true` or `false`. The first line says that it is ready.
"""

from __future__ import annotations

import json
import sys

from math_verify import parse, verify

_MEMORY = 8 << 30


def right(text: str, expected: str) -> bool:
    """Whether a text's answer is the same mathematics as the one expected."""
    written = any(mark in expected for mark in ("$", "\\boxed", "\\(", "\\["))
    gold = parse(expected if written else f"\\boxed{{{expected}}}", parsing_timeout=None)
    return bool(verify(gold, parse(text, parsing_timeout=None), timeout_seconds=None))


def main() -> None:
    """Answer until the input ends."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    replies, sys.stdout = sys.stdout, sys.stderr
    print("true", file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(right(*json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
