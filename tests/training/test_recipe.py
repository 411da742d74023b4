"""Recipes: those that ship can be read, changes reach them, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.errors import ConfigError
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training import recipe as recipes
from zip_introspect.training.recipe import Grid, Recipe


@pytest.mark.parametrize("name", recipes.shipped())
def test_each_recipe_that_ships_can_be_read(name: str) -> None:
    recipe = recipes.load(name)
    assert recipe.questions
    assert recipe.training.max_grad_norm == 0
    assert recipe.sampling.expected_tokens


def test_those_of_the_issue_ship() -> None:
    assert set(recipes.shipped()) == {"abacus", "lfm2-1.2b-math", "lfm2-350m-math", "my-data", "qwen3-1.7b"}


def test_what_is_written_can_be_read_again(tmp_path: Path) -> None:
    recipe = recipes.load("qwen3-1.7b", ["training.learning_rate=3e-6", "method=lora", "lora.rank=4"])
    (tmp_path / "recipe.yaml").write_text(recipes.dump(recipe), encoding="utf-8")
    assert recipes.load(str(tmp_path / "recipe.yaml")) == recipe
    assert recipe.training.learning_rate == 3e-6
    assert recipe.lora.rank == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("training.epochs=-1", r"training\.epochs is -1"),
        ("training.epoch=1", r"training\.epoch is 1: extra inputs are not permitted"),
        ("method=half", "method is 'half': input should be 'full', 'lora' or 'lite'"),
        ("sampling.min_p=2", r"sampling\.min_p is 2"),
        ("sampling.template_options={messages: 1}", "'messages' is no option of a chat template"),
        ("training.epochs", "expected NAME=VALUE"),
        ("a.b.c=1", "expected NAME=VALUE"),
        ("=1", "expected NAME=VALUE"),
        ("grid.length_edges=[", "which is no YAML"),
        ("questions.limit=100", "questions is no section; expected one of sampling, grid, training, lora"),
        ("questions=[{dataset: a, limit: 0}]", r"questions\.0\.limit is 0"),
    ],
)
def test_a_setting_that_cannot_be_is_named(change: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        recipes.load(None, [change])


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("a: [", "is no YAML"),
        ("- 1", "holds list"),
        ("!!python/object/apply:os.system [echo]", "is no YAML"),
        ("training: 3", "training is 3"),
        ("42: 1", "extra inputs"),
        ("a: &a [*a]", "an alias is no setting"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(written: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(written, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        recipes.load(str(tmp_path / "recipe.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as text"):
        recipes.load(str(tmp_path / "binary.yaml"))
    with pytest.raises(ConfigError, match="expected a YAML file, or one of abacus"):
        recipes.load("nothing")


def test_an_empty_section_is_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("training:\nquestions: [{dataset: a}]\n", encoding="utf-8")
    recipe = recipes.load(str(tmp_path / "recipe.yaml"), ["training.epochs=3"])
    assert recipe.training.epochs == 3


@given(st.integers(1, 100_000), st.integers(2, 12), st.integers(2, 12))
def test_the_last_length_bin_holds_the_longest_rollout(longest: int, rewards: int, lengths: int) -> None:
    wanted = Grid(reward_bins=rewards, length_bins=lengths)
    grid = wanted.over(longest, 7)
    assert grid.num_cells == wanted.cells
    assert grid.length_edges[-1] >= longest
    smaller = grid.length_edges[1] / 2
    assert smaller < 1 or smaller * 2 ** (lengths - 1) < longest


def test_the_papers_recipes_have_the_papers_grid() -> None:
    for name in ("qwen3-1.7b", "lfm2-1.2b-math", "lfm2-350m-math"):
        assert recipes.load(name).grid.over(1, 9) == JointGrid.paper(9)


def test_the_defaults_are_a_recipe() -> None:
    assert recipes.load(None) == Recipe()
