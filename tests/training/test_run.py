"""Trainings by recipe, to the end: each that ships, on a model of its architecture; every method; and interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.training import models
from zip_introspect import GenerationConfig, IntrospectiveLLM
from zip_introspect.errors import ConfigError, TrainingDataError, ZipIntrospectError
from zip_introspect.introspection import joint
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training import authors, run
from zip_introspect.training import recipe as recipes
from zip_introspect.training.claiming import claim
from zip_introspect.training.dataset import JointCollator, load, row, save, shortened
from zip_introspect.training.recipe import Recipe
from zip_introspect.training.trainer import JointTrainer

QUICK = (
    "training.tokens_per_batch=200",
    "training.save_steps=3",
    "training.logging_steps=1",
    "training.warmup_steps=2",
    "training.report_to=[]",
)


def recipe(name: str | None, model: Path, *changes: str) -> Recipe:
    return recipes.load(name, [*QUICK, f"model={json.dumps(str(model))}", *changes])


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.rollouts(tmp_path_factory.mktemp("rollouts") / "rollouts.parquet")


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("qwen3-1.7b", "qwen3"), ("lfm2-1.2b-math", "lfm2"), ("lfm2-350m-math", "lfm2"), ("my-data", "qwen3")],
)
def test_each_recipe_runs_to_the_end(name: str, architecture: str, rollouts: Path, tmp_path: Path) -> None:
    model = models.write(tmp_path / "model", architecture, tied=True)
    said: list[str] = []
    trained = run.train(
        recipe(name, model, "training.precision=float32", "grid.startup=4"),
        tmp_path / "out",
        rollouts=rollouts,
        say=said.append,
    )
    assert trained is not None
    assert trained.policy_kl is not None
    assert trained.joint_loss is not None
    assert 0 < trained.joint_loss < 10
    grid = JointGrid.load(tmp_path / "out")
    assert grid.first_reserved == 320
    assert any("320 to 383, that stand for nothing" in line for line in said)
    with IntrospectiveLLM.from_pretrained(tmp_path / "out", config=GenerationConfig(max_new_tokens=4)) as llm:
        assert 0 <= llm.generate("Solve 3*x+5=35").confidence <= 1


def test_the_embedded_model_is_trained_on_from_its_questions(tmp_path: Path) -> None:
    """From nothing but the recipe: sampled, graded, labelled and learnt."""
    short = ('questions=[{dataset: "abacus:training", limit: 24}]', "sampling.max_new_tokens=200")
    out, said = tmp_path / "out", list[str]()
    trained = run.train(recipes.load("abacus", [*QUICK, *short]), out, say=said.append)
    assert trained is not None
    assert trained.policy_kl is not None
    assert trained.policy_kl < 0.05
    labelled = load(out / "training" / "labelled.parquet")
    assert len(labelled) == 48
    assert set(labelled["right"]) == {0.0, 1.0}
    assert len(set(labelled["reward"])) > 2, "values, not rewards"
    assert {item.name for item in (out / "training").iterdir()} == {
        "recipe.yaml", "rollouts.parquet", "labelled.parquet", "grid.json", "training.json",
        "begun_with.json",
    }  # fmt: skip
    before = (out / "model.safetensors").stat().st_mtime_ns
    said.clear()
    assert run.train(recipes.load("abacus", [*QUICK, *short]), out, say=said.append) == trained
    assert said == [f"{out}/training/labelled.parquet is there: its values are taken over", f"{out} is trained already"]
    assert (out / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lite_changes_the_reserved_rows_and_not_a_byte_beside_them(
    tied: bool, dtype: torch.dtype, rollouts: Path, tmp_path: Path
) -> None:
    model = models.write(tmp_path / "model", tied=tied, dtype=dtype)
    wanted = recipe(None, model, "method=lite", "training.learning_rate=1e-2", "training.epochs=3")
    run.train(wanted, tmp_path / "out", rollouts=rollouts, say=silent)
    before, after = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "out"))
    assert before.keys() == after.keys()
    head = "model.embed_tokens.weight" if tied else "lm_head.weight"
    for name, weight in before.items():
        assert after[name].dtype == dtype
        kept = torch.ones(len(weight), dtype=torch.bool)
        if name == head:
            kept[320:384] = False
            assert not torch.equal(weight[~kept], after[name][~kept])
        assert torch.equal(weight[kept], after[name][kept]), name


@pytest.mark.parametrize("method", ["full", "lora", "lite"])
def test_every_method_learns_what_is_there_to_be_learnt(method: str, rollouts: Path, tmp_path: Path) -> None:
    """The first token says whether a rollout will be right."""
    model = models.write(tmp_path / "model", dtype=torch.float32)
    rate = {"full": "3e-3", "lora": "3e-3", "lite": "3e-2"}[method]
    more = (f"method={method}", f"training.learning_rate={rate}", "training.epochs=12", "training.value_epochs=6")
    wanted = recipe(None, model, *more, "training.rows_learning_rate=1e-2", "training.kl_weight=0.1")
    run.train(wanted, tmp_path / "out", rollouts=rollouts, say=silent)
    grid = JointGrid.load(tmp_path / "out")
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        logits = trained(input_ids=torch.tensor([[5, 6, 7], [5, 6, 8]])).logits[:, -1].numpy()
    right, wrong = joint.expected_value(joint.from_logits(logits, grid), grid)
    assert right > wrong + 0.3


def test_rows_are_appended_where_none_are_spare(rollouts: Path, tmp_path: Path) -> None:
    model = models.write(tmp_path / "model", tied=True)
    wanted, said = recipe(None, model, "method=lite", "grid.reward_bins=10"), list[str]()
    run.train(wanted, tmp_path / "out", rollouts=rollouts, say=said.append)
    assert any("384 to 463, appended to the output head" in line for line in said)
    weights = load_file(tmp_path / "out" / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(weights[:384], load_file(model / "model.safetensors")["model.embed_tokens.weight"])
    with IntrospectiveLLM.from_pretrained(tmp_path / "out", config=GenerationConfig(max_new_tokens=4)) as llm:
        assert llm.grid is not None
        assert llm.grid.first_reserved == 384


@pytest.mark.parametrize("stage", ["value", "joint"])
def test_an_interrupted_training_ends_as_if_nothing_had_happened(
    stage: str, rollouts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.write(tmp_path / "model", dtype=torch.float32)
    wanted = recipe(None, model, "training.precision=float32", "training.learning_rate=1e-3")
    run.train(wanted, tmp_path / "whole", rollouts=rollouts, say=silent)
    real = JointTrainer.training_step

    def fails(self: Any, *arguments: Any, **settings: Any) -> Any:
        if self.state.global_step == 4 and Path(self.args.output_dir).name == stage:
            raise KeyboardInterrupt
        return real(self, *arguments, **settings)

    monkeypatch.setattr(JointTrainer, "training_step", fails)
    with pytest.raises(KeyboardInterrupt):
        run.train(wanted, tmp_path / "broken", rollouts=rollouts, say=silent)
    monkeypatch.setattr(JointTrainer, "training_step", real)
    assert (tmp_path / "broken" / "training" / stage / "checkpoint-3").is_dir()
    run.train(wanted, tmp_path / "broken", rollouts=rollouts, say=silent)
    whole, broken = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_two_processes_share_a_training(rollouts: Path, tmp_path: Path) -> None:
    model, out = models.write(tmp_path / "model", dtype=torch.float32), tmp_path / "out"
    # Nothing is learnt, so that values do not depend on how many learn it.
    still = ("training.learning_rate=1e-30", "training.weight_decay=0", "training.precision=float32")
    (tmp_path / "recipe.yaml").write_text(recipes.dump(recipe(None, model, *still)), encoding="utf-8")
    launch = [
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes=2",
        "--num_machines=1",
        "--mixed_precision=no",
    ]
    command = [
        "train",
        str(model),
        str(rollouts),
        "--recipe",
        str(tmp_path / "recipe.yaml"),
        "--out",
        str(out),
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, "-m", *launch, "--dynamo_backend=no", "-m", "zip_introspect", *command],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count('"joint_loss"') == 1, "the first process speaks, and no other"
    steps = json.loads((out / "training" / "training.json").read_text(encoding="utf-8"))
    alone = tmp_path / "alone"
    run.train(recipe(None, model, *still), alone, rollouts=rollouts, say=silent)
    single = json.loads((alone / "training" / "training.json").read_text(encoding="utf-8"))
    assert len(steps) == len(single) // 2
    values = [np.asarray(load(folder / "training" / "labelled.parquet")["reward"]) for folder in (out, alone)]
    assert len(set(values[0])) > 2
    np.testing.assert_allclose(values[0], values[1], atol=1e-6, err_msg="each process's share is put where it belongs")
    assert JointGrid.load(out).shape == (8, 8)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("model=null",), "names no model"),
        (("model=model.gguf",), "only checkpoints can be trained"),
        (("model=nothing/here",), "cannot be opened as a checkpoint"),
    ],
)
def test_a_recipe_without_a_model_is_refused(changes: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(ZipIntrospectError, match=said):
        run.train(recipe(None, tmp_path, *changes), tmp_path / "out", say=silent)
    assert not (tmp_path / "out").exists()


def test_a_directory_of_something_else_and_another_recipe_are_refused(rollouts: Path, tmp_path: Path) -> None:
    model = models.write(tmp_path / "model")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.pdf").touch()
    with pytest.raises(ConfigError, match="holds other files"):
        run.train(recipe(None, model), tmp_path / "full", rollouts=rollouts, say=silent)
    with pytest.raises(ConfigError, match="no questions, and no rollouts"):
        run.train(recipe(None, model), tmp_path / "out", say=silent)


def test_what_a_result_rests_on_may_not_change_and_all_else_may(rollouts: Path, tmp_path: Path) -> None:
    model, out = models.write(tmp_path / "model"), tmp_path / "out"
    run.train(recipe(None, model, "method=lite"), out, rollouts=rollouts, say=silent)
    with pytest.raises(ConfigError, match=r"another training\.epochs\. To train anew .* delete .*labelled\.parquet"):
        run.train(recipe(None, model, "method=lite", "training.epochs=2"), out, rollouts=rollouts, say=silent)
    with pytest.raises(ConfigError, match="another rollouts, on which its rollouts rest"):
        run.train(
            recipe(None, model, "method=lite"), out, rollouts=models.rollouts(tmp_path / "b.parquet", 20), say=silent
        )
    assert run.train(recipe(None, model, "method=lite", "training.save_steps=9"), out, rollouts=rollouts, say=silent)
    (out / "zip_introspect.json").unlink()
    for name in ("labelled.parquet", "grid.json"):
        (out / "training" / name).unlink()
    assert run.train(recipe(None, model, "method=lite", "training.epochs=2"), out, rollouts=rollouts, say=silent)


def test_a_misspelt_data_set_does_not_claim_the_directory(tmp_path: Path) -> None:
    model, out = models.write(tmp_path / "model"), tmp_path / "out"
    with pytest.raises(ZipIntrospectError, match="does not exist"):
        run.train(recipe(None, model, "questions=[{dataset: ./nowhere.jsonl}]"), out, say=silent)
    assert not out.exists()


def test_a_checkpoint_that_was_cut_short_is_passed_over(rollouts: Path, tmp_path: Path) -> None:
    model, out, said = models.write(tmp_path / "model"), tmp_path / "out", list[str]()
    broken = out / "training" / "value" / "checkpoint-7"
    wanted = recipe(None, model, "method=lite")
    claim(wanted, rollouts, out / "training", model=model)
    broken.mkdir(parents=True)
    (broken / "trainer_state.json").write_text("{", encoding="utf-8")
    run.train(wanted, out, rollouts=rollouts, say=said.append)
    assert not any("goes on from" in line for line in said)


def test_rollouts_of_another_model_and_all_alike_are_refused(rollouts: Path, tmp_path: Path) -> None:
    model = models.write(tmp_path / "model")
    foreign = tmp_path / "foreign.parquet"
    save([row([5], [6, 70_000, 1], 1.0)] * 3, foreign)
    with pytest.raises(TrainingDataError, match=r"token id 70000.*below 384"):
        run.train(recipe(None, model), tmp_path / "a", rollouts=foreign, say=silent)
    alike = tmp_path / "alike.parquet"
    save([row([5], [6, 7, 1], 1.0)] * 3, alike)
    with pytest.raises(TrainingDataError, match=r"all 3 rollouts .* have the same reward"):
        run.train(recipe(None, model), tmp_path / "b", rollouts=alike, say=silent)
    cut = tmp_path / "cut.parquet"
    save([row([5], [6, 7, 1], float(n), finished=False) for n in range(2)], cut)
    with pytest.raises(TrainingDataError, match="came to its end"):
        run.train(recipe(None, model), tmp_path / "c", rollouts=cut, say=silent)


def test_lengths_that_the_model_or_the_grid_cannot_hold_are_refused(rollouts: Path, tmp_path: Path) -> None:
    model = models.write(tmp_path / "model")
    with pytest.raises(TrainingDataError, match=r"longer than the grid's first length bin, of 256 tokens"):
        run.train(recipe(None, model, "grid.startup=256"), tmp_path / "a", rollouts=rollouts, say=silent)
    said: list[str] = []
    run.train(recipe(None, model, "grid.startup=4", "method=lite"), tmp_path / "b", rollouts=rollouts, say=said.append)
    assert "the last 3 of 8 length bins never occur: no rollout is as long" in said
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 20}), encoding="utf-8")
    with pytest.raises(TrainingDataError, match=r"row \d+: length is 4\d, and the model's context holds 20"):
        run.train(recipe(None, model), tmp_path / "c", rollouts=rollouts, say=silent)
    run.train(
        recipe(None, model, "training.max_length=20", "method=lite"), tmp_path / "d", rollouts=rollouts, say=silent
    )


def test_rollouts_that_hold_a_reserved_token_are_left_out(tmp_path: Path) -> None:
    file, said = tmp_path / "rollouts.parquet", list[str]()
    save([row([5], [6, 330 if n == 7 else 9, 1], float(n % 2)) for n in range(20)], file)
    wanted = recipe(None, models.write(tmp_path / "model"), "method=lite")
    run.train(wanted, tmp_path / "out", rollouts=file, say=said.append)
    assert "1 rollouts that hold a token to be reserved are left out" in said
    assert len(load(tmp_path / "out" / "training" / "labelled.parquet")) == 19


def test_rollouts_of_the_authors_are_read_as_they_are(rollouts: Path, tmp_path: Path) -> None:
    file = authors.save(load(rollouts), tmp_path / "theirs.parquet")
    run.train(
        recipe(None, models.write(tmp_path / "model"), "method=lite"), tmp_path / "out", rollouts=file, say=silent
    )
    labelled = load(tmp_path / "out" / "training" / "labelled.parquet")
    assert labelled["input_ids"][:] == load(rollouts)["input_ids"][:]
    assert labelled["right"][:] == load(rollouts)["reward"][:]


def test_a_length_limit_cuts_rows_and_not_what_remains(rollouts: Path, tmp_path: Path) -> None:
    """Cells of positions before the limit are those of the whole rows."""
    whole, short = load(rollouts), shortened(load(rollouts), 12)
    grid = recipes.load(None).grid.over(40, 320)
    collate = JointCollator(grid, 0)
    for place, row_ in enumerate(short):
        assert len(row_["input_ids"]) == row_["length"] <= 12
        cut, full = (collate([item])["targets"][0].tolist() for item in (row_, whole[place]))
        assert cut == full[:12]
    run.train(
        recipe(None, models.write(tmp_path / "model"), "training.max_length=12"),
        tmp_path / "o",
        rollouts=rollouts,
        say=silent,
    )
    assert JointGrid.load(tmp_path / "o").length_edges[-1] >= 37
    with pytest.raises(TrainingDataError, match="no prompt is shorter than 2 tokens"):
        shortened(whole, 2)
