"""A run that writes a file loses nothing that was done, however it ends, and ends in the same file."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluation.stored import CONFIG
from tests.scripted import FaultyBackend, out_of_memory
from zip_introspect import IntrospectiveLLM
from zip_introspect.backend.contract import Prefilled, SequenceId
from zip_introspect.config import SamplingParams
from zip_introspect.demo.problems import held_out
from zip_introspect.errors import EvaluationDataError, TrainingDataError
from zip_introspect.evaluation.store.collecting import Collected, Grader, collect_rollouts, collect_to_file
from zip_introspect.evaluation.store.rollout_file import Question, Rollouts
from zip_introspect.testing.simulator import SimulatedBackend

QUESTIONS = [Question(f"question {number}", "1", "even" if number % 2 == 0 else "odd") for number in range(40)]
SAMPLES, CONCURRENCY = 3, 12


class CountingBackend(SimulatedBackend):
    """Knows how many prompts it was given, and how many samples it began."""

    asked = begun = 0

    def fork(self, sequence: SequenceId, samples: Sequence[int], sampling: SamplingParams) -> list[SequenceId]:
        self.begun += len(samples)
        return super().fork(sequence, samples, sampling)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prefilled]:
        self.asked += len(prompts)
        return super().prefill(prompts)


def right(text: str, expected: str) -> bool:
    return text.endswith(f"ans {expected}")


def failing_at(call: int, error: BaseException) -> Grader:
    """A grader that raises once."""
    calls = iter(range(call, -1, -1))

    def grade(text: str, expected: str) -> bool:
        if next(calls, None) == 0:
            raise error
        return right(text, expected)

    return grade


def run(
    file: Path,
    backend: SimulatedBackend | None = None,
    grader: Grader = right,
    questions: list[Question] = QUESTIONS,
    say: Callable[[str], None] = lambda line: None,
    samples: int = SAMPLES,
    **changes: Any,
) -> Collected:
    llm = IntrospectiveLLM(backend or SimulatedBackend(), CONFIG.replace(**changes))
    return collect_to_file(llm, questions, grader, file, samples=samples, concurrency=CONCURRENCY, say=say)


def interrupt(file: Path, call: int = 60) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(file, grader=failing_at(call, KeyboardInterrupt()))


def folder_of(file: Path) -> Path:
    return file.with_name(file.name + ".parts")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a run that nothing interrupted."""
    file = tmp_path_factory.mktemp("whole") / "r.parquet"
    run(file)
    return file


def test_the_file_is_that_of_rollouts_collected_in_memory(whole: Path, tmp_path: Path) -> None:
    llm = IntrospectiveLLM(SimulatedBackend(), CONFIG)
    in_memory = collect_rollouts(llm, QUESTIONS, right, samples=SAMPLES, concurrency=CONCURRENCY)
    assert in_memory.save(tmp_path / "r.parquet").read_bytes() == whole.read_bytes()
    assert [path.name for path in whole.parent.iterdir()] == ["r.parquet"], "nothing else is left behind"


def test_what_was_collected_is_counted(tmp_path: Path) -> None:
    found = run(tmp_path / "r.parquet")
    rollouts = Rollouts.load(found.file)
    assert (found.model, found.max_new_tokens) == (rollouts.model, rollouts.max_new_tokens)
    assert set(found.groups) == {"even", "odd"}
    for group, counts in found.groups.items():
        items = [item for one in rollouts.problems if one.question.group == group for item in one.rollouts]
        assert dataclasses.asdict(counts) == {
            "questions": 20,
            "samples": len(items),
            "right": sum(item.right for item in items),
            "finished": sum(item.finished for item in items),
            "tokens": sum(len(item.tokens) for item in items),
        }


@pytest.mark.parametrize("cold", [{"temperature": 0.0}, {"top_k": 1}])
def test_one_sample_is_taken_where_all_are_the_same(cold: dict[str, Any], tmp_path: Path, caplog: Any) -> None:
    said: list[str] = []
    backend = CountingBackend()
    found = run(tmp_path / "r.parquet", backend, say=said.append, **cold)
    assert "one is sampled, and stored 3 times" in said[0]
    assert backend.begun == len(QUESTIONS)
    assert {counts.samples for counts in found.groups.values()} == {SAMPLES * 20}
    stored = Rollouts.load(found.file)
    assert {len(problem.rollouts) for problem in stored.problems} == {SAMPLES}
    assert all(len({item.tokens.tobytes() for item in problem.rollouts}) == 1 for problem in stored.problems)
    llm = IntrospectiveLLM(SimulatedBackend(), CONFIG.replace(**cold))
    in_memory = collect_rollouts(llm, QUESTIONS, right, samples=SAMPLES, concurrency=CONCURRENCY)
    assert "one is sampled, and stored 3 times" in caplog.text
    assert in_memory.save(tmp_path / "m.parquet").read_bytes() == found.file.read_bytes()
    live = [result.samples[0].token_ids for result in llm.batch([question.text for question in QUESTIONS])]
    assert [tuple(problem.rollouts[0].tokens.tolist()) for problem in stored.problems] == live


def test_no_seed_is_a_fresh_one_for_every_run_and_a_run_keeps_its_own(tmp_path: Path) -> None:
    first, second = (run(tmp_path / name, seed=None).file.read_bytes() for name in ("a.parquet", "b.parquet"))
    assert first != second
    file = tmp_path / "c.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(file, grader=failing_at(60, KeyboardInterrupt()), seed=None)
    drawn = json.loads((folder_of(file) / "settings.json").read_text())["seed"]
    backend = CountingBackend()
    run(file, backend, seed=None)
    assert backend.asked < len(QUESTIONS), "it went on with the samples that were there"
    assert file.read_bytes() == run(tmp_path / "d.parquet", seed=drawn).file.read_bytes()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a grader of one's own")])
def test_an_interrupted_run_goes_on_where_it_was(error: BaseException, whole: Path, tmp_path: Path) -> None:
    file, said = tmp_path / "r.parquet", list[str]()
    backend = CountingBackend()
    with pytest.raises(type(error)):
        run(file, backend, failing_at(60, error), say=said.append)
    assert backend.held == 0
    assert not file.exists()
    kept = len(list(folder_of(file).glob("*.parquet")))
    assert 10 <= kept <= 20, "60 samples are 20 questions, and those under way are lost"
    assert said == [f"{kept} of 40 questions are kept in {folder_of(file)}; run the same to go on"]
    again = CountingBackend()
    run(file, again, say=said.append)
    assert said[1:] == [f"{kept} of 40 questions are taken over from {folder_of(file)}"]
    assert again.asked == 40 - kept
    assert file.read_bytes() == whole.read_bytes()
    assert not folder_of(file).exists()


def test_a_backend_that_fails_costs_only_what_was_under_way(whole: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.parquet"
    with pytest.raises(MemoryError):
        run(file, FaultyBackend(out_of_memory, at=8))
    kept = len(list(folder_of(file).glob("*.parquet")))
    assert kept > 0
    run(file)
    assert file.read_bytes() == whole.read_bytes()


def test_it_can_be_interrupted_again_and_again_also_while_the_file_is_put_together(whole: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.parquet"
    interrupt(file, 30)
    interrupt(file, 50)
    # All that is missing, and then half of what is taken over and graded anew.
    missing = 40 - len(list(folder_of(file).glob("*.parquet")))
    with pytest.raises(KeyboardInterrupt):
        run(file, grader=failing_at(missing * SAMPLES + 5, KeyboardInterrupt()))
    assert len(list(folder_of(file).glob("*.parquet"))) == 40
    assert not file.exists()
    backend = CountingBackend()
    run(file, backend)
    assert backend.asked == 0
    assert file.read_bytes() == whole.read_bytes()


CHILD = """
import sys
from pathlib import Path
from typing import Any
from tests.evaluation.store.test_collecting import run
from tests.scripted import FaultyBackend, unchanged
run(Path(sys.argv[1]), FaultyBackend(unchanged, pace=0.05))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_a_killed_process_loses_only_what_was_under_way(whole: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.parquet"
    with subprocess.Popen([sys.executable, "-c", CHILD, str(file)], stderr=subprocess.DEVNULL) as child:
        deadline = time.monotonic() + 120
        while len(list(folder_of(file).glob("*.parquet"))) < 8 and time.monotonic() < deadline:
            assert child.poll() is None, "it ended before it was killed"
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
    said = list[str]()
    run(file, say=said.append)
    assert len(said) == 1
    assert "damaged" not in said[0]
    assert 8 <= int(said[0].split()[0]) < 40
    assert file.read_bytes() == whole.read_bytes()
    assert not folder_of(file).exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"temperature": 0.5}, r"in temperature \(1.0 there, 0.5 here\)\."),
        ({"seed": 4, "top_k": 3}, r"in seed \(3 there, 4 here\), top_k \(0 there, 3 here\)\."),
        ({"max_new_tokens": 60}, r"in max_new_tokens \(64 there, 60 here\)"),
        ({"samples": 4}, r"in samples \(3 there, 4 here\)"),
        ({"questions": QUESTIONS[:-1]}, r"in questions\."),
        ({"questions": QUESTIONS[::-1]}, r"in questions\."),
        ({"backend": SimulatedBackend(max_length=41)}, r"in grid\."),
    ],
)
def test_parts_of_another_run_are_refused_by_what_differs(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = tmp_path / "r.parquet"
    interrupt(file)
    before = {path: path.read_bytes() for path in folder_of(file).iterdir()}
    with pytest.raises(EvaluationDataError, match=said) as caught:
        run(file, **changes)
    assert "Delete the directory to begin anew, or name another output." in str(caught.value)
    assert {path: path.read_bytes() for path in folder_of(file).iterdir()} == before


def test_other_weights_under_the_same_name_are_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "simulated world" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"before")
    interrupt(tmp_path / "r.parquet")
    (weights.parent / "calibration.json").write_text("{}")  # changes no sample
    interrupt(tmp_path / "r.parquet")
    weights.write_bytes(b"after a training")
    with pytest.raises(EvaluationDataError, match=r"in weights\."):
        run(tmp_path / "r.parquet")


def test_answers_groups_and_graders_may_be_mended_between_two_runs(tmp_path: Path) -> None:
    file, other = tmp_path / "r.parquet", tmp_path / "other.parquet"
    interrupt(file)
    mended = [Question(question.text, "0", "one") for question in QUESTIONS]
    run(file, questions=mended)
    run(other, questions=mended)
    assert file.read_bytes() == other.read_bytes()


def test_a_damaged_part_is_sampled_anew(whole: Path, tmp_path: Path) -> None:
    file, said = tmp_path / "r.parquet", list[str]()
    interrupt(file)
    parts = sorted(folder_of(file).glob("*.parquet"))
    parts[0].write_bytes(parts[0].read_bytes()[:-100])
    parts[1].write_bytes(b"")
    parts[2].write_bytes(parts[3].read_bytes())
    (folder_of(file) / "000000.parquet.part").write_bytes(b"being written")
    run(file, say=said.append)
    assert said == [
        f"3 files in {folder_of(file)} are damaged; their questions are sampled anew",
        f"{len(parts) - 3} of 40 questions are taken over from {folder_of(file)}",
    ]
    assert file.read_bytes() == whole.read_bytes()
    assert not folder_of(file).exists()


@pytest.mark.parametrize("content", [None, "", "[]", "{"])
def test_parts_without_their_settings_are_not_trusted(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "r.parquet"
    interrupt(file)
    settings = folder_of(file) / "settings.json"
    settings.unlink()
    if content is not None:
        settings.write_text(content)
    with pytest.raises(EvaluationDataError, match="does not say what the rollouts beside it were made with"):
        run(file)


def test_a_folder_that_cannot_be_made_is_an_error_and_an_empty_one_is_taken(whole: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.parquet"
    folder_of(file).touch()
    with pytest.raises(EvaluationDataError, match="cannot be used: File exists"):
        run(file)
    folder_of(file).unlink()
    folder_of(file).mkdir()  # killed before the settings were there
    run(file)
    assert file.read_bytes() == whole.read_bytes()


def test_nothing_is_left_where_nothing_was_done(tmp_path: Path) -> None:
    said = list[str]()
    with pytest.raises(TrainingDataError, match="got 0 prompts"):
        run(tmp_path / "r.parquet", questions=[], say=said.append)
    with pytest.raises(MemoryError):
        run(tmp_path / "r.parquet", FaultyBackend(out_of_memory, at=0), say=said.append)
    assert said == []
    assert not list(tmp_path.iterdir())


def test_the_embedded_model_goes_on_with_the_same_samples(tmp_path: Path) -> None:
    questions = [Question(problem.prompt, problem.answer) for problem in held_out(21, 4, tiers=(1,))]

    def grade(text: str, expected: str) -> bool:
        return text.rsplit("\n", 1)[-1].strip() == f"ans {expected}"

    broken = iter(range(4))

    def interrupted(text: str, expected: str) -> bool:
        if next(broken, None) is None:
            raise KeyboardInterrupt
        return grade(text, expected)

    with IntrospectiveLLM.demo() as llm:
        asked: dict[str, Any] = {"samples": 2, "concurrency": 4}
        at_once = collect_rollouts(llm, questions, grade, **asked)
        with pytest.raises(KeyboardInterrupt):
            collect_to_file(llm, questions, interrupted, tmp_path / "r.parquet", **asked)
        assert list(folder_of(tmp_path / "r.parquet").glob("*.parquet"))
        collect_to_file(llm, questions, grade, tmp_path / "r.parquet", **asked)
    resumed = Rollouts.load(tmp_path / "r.parquet")
    for one, other in zip(at_once.problems, resumed.problems, strict=True):
        for ours, theirs in zip(one.rollouts, other.rollouts, strict=True):
            assert ours.tokens.tolist() == theirs.tokens.tolist()
            assert (ours.answer, ours.right) == (theirs.answer, theirs.right)
            # What is computed beside a sample changes how its numbers are rounded.
            assert np.abs(ours.joints - theirs.joints).max() < 2e-3
