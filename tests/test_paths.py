"""`~` is the user's home, wherever a path is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zip_introspect import GridError, IntrospectiveLLM, ModelLoadError
from zip_introspect.backend.discovery import InstalledBackends
from zip_introspect.cli.app import app
from zip_introspect.demo.embedded import DEMO_GGUF, DEMO_MODEL
from zip_introspect.introspection.calibration import Calibration
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.paths import expanded


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "model").symlink_to(DEMO_MODEL)
    return tmp_path


def test_only_a_home_at_the_beginning_is_replaced(home: Path) -> None:
    assert expanded("~/a/~b") == f"{home}/a/~b"
    assert expanded(Path("~")) == home
    for name in ("owner/name", "a~b", "./a/~", "~nobody-of-that-name/a"):
        assert expanded(name) == name
        assert expanded(Path(name)) == Path(name)


def test_a_model_is_found_there(home: Path) -> None:
    with IntrospectiveLLM.from_pretrained("~/model") as llm:
        assert llm.info.vocab_size
        assert llm.origin is not None
        assert Path(llm.origin.model) == DEMO_MODEL.resolve()
    backend = InstalledBackends().infer("~/model")
    assert backend.accepts("~/model")
    assert backend.open("~/model").grid == JointGrid.load(Path("~/model"))
    for missing in ("~/none", "~nobody-of-that-name/a"):
        with pytest.raises(ModelLoadError, match="Check the path"):
            IntrospectiveLLM.from_pretrained(missing)


def test_a_gguf_file_is_found_there(home: Path) -> None:
    pytest.importorskip("llama_cpp", reason="the extra llama-cpp is not installed")
    file = f"~/model/{DEMO_GGUF.name}"
    with IntrospectiveLLM.from_pretrained(file, cells=256) as llm:
        assert llm.info.backend == "llama-cpp"
    done = CliRunner().invoke(app, ["attach-grid", file, "~/model", "--out=~/copy.gguf"])
    assert done.exit_code == 0, done.stderr
    assert (home / "copy.gguf").is_file()


def test_grids_calibrations_and_rollouts_are_kept_there(home: Path) -> None:
    grid = JointGrid.load("~/model")
    assert grid.save("~/grids") == home / "grids" / "zip_introspect.json"
    assert JointGrid.load("~/grids") == grid
    with pytest.raises(GridError, match=str(home)):
        JointGrid.load("~/none")
    calibration = Calibration(method="temperature", examples=3)
    assert calibration.save("~/mine.json") == home / "mine.json"
    assert Calibration.load("~/mine.json") == calibration
    pytest.importorskip("pyarrow", reason="the extra eval is not installed")
    from tests.evaluation.stored import simulated

    _, rollouts = simulated(questions=2, samples=1)
    assert rollouts.save("~/out.parquet") == home / "out.parquet"
    assert type(rollouts).load("~/out.parquet").model == rollouts.model


def test_training_rows_are_kept_there(home: Path) -> None:
    dataset = pytest.importorskip("zip_introspect.training.dataset", reason="the extra train is not installed")
    dataset.save([dataset.row([2], [3, 1], 1.0)], Path("~/rows.parquet"))
    assert (home / "rows.parquet").is_file()
    assert dataset.load(Path("~/rows.parquet"))["input_ids"][:] == [[2, 3, 1]]


def test_the_command_line_reads_and_writes_there(home: Path) -> None:
    pytest.importorskip("sklearn", reason="the extra eval is not installed")
    rows = [{"confidence": place / 50, "right": place % 3 > 0} for place in range(50)]
    (home / "results.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = CliRunner().invoke(app, ["calibrate", "~/results.jsonl", "--out=~/map.json", "--method", "temperature"])
    assert done.exit_code == 0, done.stderr
    assert Calibration.load(home / "map.json").examples == 50
    asked = ["ask", "Solve 2*x=4", "--model=~/model", "--max-new-tokens", "4", "--json"]
    assert CliRunner().invoke(app, asked).exit_code == 0
    done = CliRunner().invoke(app, ["rollouts", "abacus", "~/none/out.parquet"])
    assert f"{home}/none is not a directory" in done.stderr.replace("\n", " ")
    assert "~" not in done.stderr
    assert CliRunner().invoke(app, ["inspect", "~/model"]).exit_code == 0
