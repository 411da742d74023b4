"""JointGrid: its bins, its file, its metadata, and what it refuses."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect.errors import GridError, ReservedTokensError
from zip_introspect.introspection import joint
from zip_introspect.introspection.grid import FILE_NAME, JointGrid


def test_paper_grid_is_uniform_over_log_lengths() -> None:
    grid = JointGrid.paper(1000)
    assert grid.shape == (8, 8)
    assert grid.length_edges.tolist() == [0, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768]
    assert grid.length_values.tolist() == [128, 384, 768, 1536, 3072, 6144, 12288, 24576]
    assert grid.reward_values.tolist() == [(2 * b + 1) / 16 for b in range(8)]
    assert grid.reserved_token_ids == tuple(range(1000, 1064))


def test_released_grid_is_centred_on_sixths() -> None:
    grid = JointGrid.released(7)
    assert grid.shape == (7, 8)
    assert grid.reward_values == pytest.approx(np.arange(7) / 6, abs=1e-7)
    assert grid.reward_bin(np.arange(7) / 6).tolist() == list(range(7))
    assert grid.reward_bin([0.08, 0.09, 0.24, 0.26]).tolist() == [0, 1, 1, 2]
    assert grid.length_edges[-1] == 32769


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=20),
    st.lists(st.floats(0, 1e6), min_size=1, max_size=20),
)
def test_bins_hold_their_values(rewards: list[float], lengths: list[float]) -> None:
    grid = JointGrid.released(0)
    for edges, values, bins in (
        (grid.reward_edges, rewards, grid.reward_bin(rewards)),
        (grid.length_edges, lengths, grid.length_bin(lengths)),
    ):
        for value, found in zip(values, bins, strict=True):
            inside = [b for b in range(len(edges) - 1) if edges[b] <= value < edges[b + 1]]
            expected = inside[0] if inside else (0 if value < edges[0] else len(edges) - 2)
            assert found == expected


def test_bins_keep_shapes_and_refuse_nan() -> None:
    grid = JointGrid.paper(0)
    assert grid.reward_bin(np.full((2, 3), 0.3)).shape == (2, 3)
    assert grid.length_bin(0).shape == ()
    with pytest.raises(GridError, match="a reward is NaN"):
        grid.reward_bin([0.1, float("nan")])


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=9))
def test_a_representative_is_that_of_the_bin_and_stands_for_itself(values: list[float]) -> None:
    on_the_edge = JointGrid(
        reward_edges=[0, 0.5, 1], reward_values=[0.5, 0.7], length_edges=[0, 4, 8], first_reserved=0
    )
    for grid in (JointGrid.paper(0), JointGrid.released(0), on_the_edge):
        found = grid.representative(values)
        assert np.isin(found, grid.reward_values).all()
        np.testing.assert_array_equal(grid.representative(found), found)
        elsewhere = ~np.isin(values, grid.reward_values)
        np.testing.assert_array_equal(found[elsewhere], grid.reward_values[grid.reward_bin(values)][elsewhere])
    assert float(JointGrid.paper(0).representative(0.99)) == 0.9375
    with pytest.raises(GridError, match="NaN"):
        JointGrid.paper(0).representative([0.5, np.nan])


def test_flat_index_is_reward_major() -> None:
    grid = JointGrid.released(50)
    assert grid.flat_index(2, 3) == 2 * 8 + 3
    rows, columns = np.meshgrid(np.arange(7), np.arange(8), indexing="ij")
    assert grid.flat_index(rows, columns).ravel().tolist() == list(range(56))
    with pytest.raises(GridError, match=r"length bin 8\.\.8 is not on the grid; expected 0\.\.7"):
        grid.flat_index(0, 8)


@pytest.mark.parametrize("grid", [JointGrid.paper(12, startup=24), JointGrid.released(3)])
def test_round_trips(grid: JointGrid, tmp_path: Path) -> None:
    assert grid.save(tmp_path) == tmp_path / FILE_NAME
    assert JointGrid.load(tmp_path) == grid == JointGrid.load(tmp_path / FILE_NAME)
    assert grid.save(tmp_path / "other.json") == tmp_path / "other.json"
    assert JointGrid.load(tmp_path / "other.json") == grid
    assert JointGrid.from_metadata({"general.name": "x", **grid.to_metadata()}) == grid
    assert pickle.loads(pickle.dumps(grid)) == grid == copy.deepcopy(grid)
    assert hash(grid) == hash(copy.deepcopy(grid))
    assert grid != JointGrid.paper(13, startup=24)


def test_float32_metadata_still_makes_a_grid() -> None:
    grid = JointGrid.released(3)
    metadata = {
        key: np.array(value, dtype=np.float32) if isinstance(value, list) else value
        for key, value in grid.to_metadata().items()
    }
    read = JointGrid.from_metadata(metadata)
    assert read.reward_values == pytest.approx(grid.reward_values, abs=1e-6)


def test_is_immutable() -> None:
    grid = JointGrid.paper(0)
    with pytest.raises(ValueError, match="read-only"):
        grid.reward_values[0] = 3
    with pytest.raises(ValueError, match="frozen"):
        grid.reward_edges = np.arange(9.0)  # type: ignore[misc]


AXES = {"reward_edges": [0, 0.5, 1], "length_edges": [0, 8, 16]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward_edges": [0, 1, 0.5]}, "expected strictly rising edges"),
        ({"reward_edges": [0, float("nan")]}, "reward_edges: holds NaN or infinity"),
        ({"length_edges": [0, float("inf")]}, "length_edges: holds NaN or infinity"),
        ({"length_edges": [0, 10**400]}, "beyond the range of a float"),
        ({"length_edges": [-1, 4]}, "a length is 0 or more"),
        ({"length_edges": "0 8 16"}, "length_edges: expected a list of numbers"),
        ({"length_edges": [[0, 8]]}, "expected a flat list of numbers"),
        ({"length_edges": [True, 8]}, "expected a flat list of numbers"),
        ({"reward_edges": [1]}, "reward_edges holds 1 numbers; expected 2 or more"),
        ({"reward_values": [0.1]}, "expected one a bin, 2"),
        ({"reward_values": [0.1, 1.2]}, "lies outside its bin"),
        ({"reward_values": [0.5, 0.5]}, "strictly rising values"),
        ({"first_reserved": -3}, "a token id is 0 or more"),
        ({"first_reserved": "7"}, "expected a token id"),
        ({"reserved_token_ids": [1, 2, 3, 4]}, "not both"),
        ({"first_reserved": None, "reserved_token_ids": [1, 2, 3]}, "holds 3 ids; expected 4"),
        ({"first_reserved": None, "reserved_token_ids": [1, 2, 2, 3]}, "an id twice"),
        ({"first_reserved": None, "reserved_token_ids": [1, 2, 4, 5]}, "not contiguous"),
        ({"first_reserved": None, "reserved_token_ids": [1.5, 2, 4, 5]}, "whole numbers"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_refuses_malformed_grids(change: dict[str, Any], message: str) -> None:
    with pytest.raises(GridError, match=message):
        JointGrid(**{**AXES, "first_reserved": 4, **change})


def test_last_length_bin_may_be_represented_beyond_its_edge() -> None:
    assert JointGrid(**AXES, first_reserved=0, length_values=[4, 40]).length_values[1] == 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON, or is cut short"),
        ('{"format": "zip_intro', "not JSON, or is cut short"),
        ("[" * 100_000, "not JSON, or is cut short"),
        ("[1, 2]", "not a grid's file"),
        ('{"architectures": ["Qwen3ForCausalLM"]}', "not a grid's file"),
        ('{"format": "zip_introspect.grid"}', "has version None"),
        (
            '{"format": "zip_introspect.grid", "version": 2}',
            "version 2; this release reads up to 1. Upgrade",
        ),
        ('{"format": "zip_introspect.grid", "version": 1}', "reward_edges is missing"),
        ('{"format": "zip_introspect.grid", "version": 1, "reward_edges": [0, NaN]}', "NaN or infinity"),
        (" " * (2 << 20), "more than any grid"),
    ],
)
def test_refuses_foreign_files(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(GridError, match=message):
        JointGrid.load(tmp_path)


def test_refuses_binary_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(GridError, match="does not exist: the model has no grid"):
        JointGrid.load(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(b"GGUF\xff\xfe\x00")
    with pytest.raises(GridError, match="not JSON"):
        JointGrid.load(tmp_path)


def test_refuses_metadata_without_a_grid() -> None:
    with pytest.raises(GridError, match="the model file has no grid"):
        JointGrid.from_metadata({"general.architecture": "qwen3"})
    metadata = JointGrid.paper(0).to_metadata()
    del metadata["zip_introspect.length_edges"]
    with pytest.raises(GridError, match=r"lacks zip_introspect\.length_edges"):
        JointGrid.from_metadata(metadata)
    with pytest.raises(GridError, match="version 9"):
        JointGrid.from_metadata({**JointGrid.paper(0).to_metadata(), "zip_introspect.version": 9})


def test_saved_file_is_plain_json(tmp_path: Path) -> None:
    content = json.loads(JointGrid.paper(5).save(tmp_path).read_text())
    assert content["format"] == "zip_introspect.grid"
    assert content["version"] == 1
    assert content["reserved_token_ids"][0] == 5


def test_check_fits_names_what_the_model_has() -> None:
    grid = JointGrid.paper(100)
    grid.check_fits(164, eos_token_ids=(2, 99))
    with pytest.raises(
        ReservedTokensError, match=r"has 163 rows \(ids 0\.\.162\); the 8 x 8 grid needs ids 100\.\.163"
    ):
        grid.check_fits(163)
    with pytest.raises(ReservedTokensError, match="token 120, which is one of the grid's reserved ids"):
        grid.check_fits(500, eos_token_ids=(2, 120))


def test_a_grid_that_reserves_no_tokens_is_for_heads_alone(tmp_path: Path) -> None:
    paper = JointGrid.paper(100)
    own = JointGrid(reward_edges=paper.reward_edges, length_edges=paper.length_edges)
    assert (own.reserved_token_ids, list(own.reserved), own.num_cells) == ((), [], 64)
    assert JointGrid.load(own.save(tmp_path)) == own == JointGrid.from_metadata(own.to_metadata())
    assert paper.reserved == range(100, 164)
    with pytest.raises(GridError, match="reserves no tokens"):
        _ = own.first_reserved
    with pytest.raises(ReservedTokensError, match="one of a head comes with the head's file"):
        own.check_fits(1_000)
    np.testing.assert_allclose(joint.from_logits(np.zeros((2, 64)), own), 1 / 64)
    with pytest.raises(GridError, match="reserved ids, which it has not"):
        joint.from_logits(np.zeros(200), own)
