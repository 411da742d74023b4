"""The console script as a process: what it costs to start, and what it says where Typer is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from zip_introspect.cli.app import app


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_cli_extra_one_line_says_what_to_install(package: str) -> None:
    done = run(f"import sys; sys.modules[{package!r}] = None; from zip_introspect.cli import main; main()")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: the command line needs the package {package!r}, which is not installed. "
        'Install it with: pip install "zip-introspect[cli]"\n'
    )


def test_help_and_version_load_no_framework() -> None:
    done = run(
        "import sys; sys.argv = ['zip-introspect', 'version']\n"
        "from zip_introspect.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("zip-introspect ")


def test_wrong_usage_is_exit_code_2() -> None:
    assert CliRunner().invoke(app, ["ask"]).exit_code == 2
    assert CliRunner().invoke(app, ["ask", "1", "--budget", "many"]).exit_code == 2
    assert CliRunner().invoke(app, ["sing"]).exit_code == 2
