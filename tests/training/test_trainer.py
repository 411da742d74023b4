"""The objective against eq. 3 written out, and a training run that learns what it is told."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import softmax

from tests.training.tiny import GRID, arguments, rollouts, tiny
from zip_introspect.errors import ReservedTokensError
from zip_introspect.introspection import joint
from zip_introspect.training.batching import LengthBatchingTrainer
from zip_introspect.training.dataset import JointCollator, row
from zip_introspect.training.trainer import JointTrainer, joint_loss, policy_kl
from zip_introspect.training.values import denoised_values, fit_representatives


def test_the_losses_are_those_of_the_paper() -> None:
    torch.manual_seed(0)
    logits, reference = torch.randn(5, 32), torch.randn(5, 32)
    targets = torch.tensor([0, 3, 7, 12, 15])
    cells = softmax(logits[:, 16:].double(), -1)
    expected = -np.mean([np.log(cells[i, targets[i]].item()) for i in range(5)])
    assert joint_loss(logits[:, 16:], targets).item() == pytest.approx(5 * expected, abs=5e-5)
    p, q = (softmax(item[:, :16].double(), -1).numpy() for item in (logits, reference))
    divergence = [sum(p[i, v] * np.log(p[i, v] / q[i, v]) for v in range(16)) for i in range(5)]
    assert policy_kl(logits, reference, GRID).tolist() == pytest.approx(divergence, abs=1e-5)


def test_joint_logits_do_not_count_as_policy() -> None:
    logits = torch.randn(3, 32)
    moved = logits.clone()
    moved[:, 16:] += torch.randn(3, 16) * 10
    assert policy_kl(logits, moved, GRID).abs().max() < 1e-6


def test_training_learns_the_joint_and_the_kl_term_holds_the_policy(tmp_path: Path) -> None:
    data = rollouts(160)
    drift = {}
    for weight in (None, 10.0):
        model, original = tiny(), tiny()
        trainer = JointTrainer(
            model,
            arguments(tmp_path / str(weight), num_train_epochs=6),
            grid=GRID,
            reference=original if weight else None,
            kl_weight=weight or 0.0,
            train_dataset=data,
            data_collator=JointCollator(GRID, 0),
        )
        trainer.train()
        history = [entry for entry in trainer.state.log_history if "joint_loss" in entry]
        assert history[-1]["joint_loss"] < 0.75 * history[0]["joint_loss"]
        probe = torch.tensor([[2, 3, 5, 9, 4], [2, 2, 5, 9, 4]])
        with torch.no_grad():
            logits = model(input_ids=probe).logits
            drift[weight] = policy_kl(logits, original.eval()(input_ids=probe).logits, GRID).mean().item()
        values = joint.expected_value(joint.from_logits(logits.numpy()[:, -1], GRID), GRID)
        if weight is None:
            assert values[0] > values[1] + 0.3
            scores = denoised_values(model, data, GRID, pad_token_id=0, last=2, tokens=500)
            right = np.asarray(data["reward"])
            assert scores[right == 1].mean() > scores[right == 0].mean() + 0.3
    assert drift[10.0] < 0.05
    assert drift[10.0] < drift[None]


def test_denoised_values_average_the_last_prefixes() -> None:
    model = tiny()
    data = Dataset.from_list([row([2, 4], [5, 6, 7, 1], 1.0), row([2], [9, 1], 0.0)])
    found = denoised_values(model, data, GRID, pad_token_id=0, last=2, tokens=6)
    with torch.no_grad():
        for i, ids in enumerate(data["input_ids"]):
            logits = model(input_ids=torch.tensor([ids])).logits[0, -3:-1].numpy()
            expected = joint.expected_value(joint.from_logits(logits, GRID), GRID).mean()
            assert found[i] == pytest.approx(expected, abs=1e-5)


def test_representatives_are_the_means_of_their_bins() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 1, 4000)
    rewards = (rng.uniform(0, 1, 4000) < values).astype(float)
    lengths = rng.integers(1, 13, 4000)
    grid = fit_representatives(GRID, values, rewards, lengths)
    remaining = np.array([left for length in lengths for left in range(1, length + 1)])
    for b, representative in enumerate(grid.reward_values):
        inside = (values >= b / 4) & (values < (b + 1) / 4)
        assert representative == pytest.approx(rewards[inside].mean(), abs=1e-9)
    for left, right, representative in zip((0, 2, 4, 8), (2, 4, 8, 99), grid.length_values, strict=True):
        assert representative == pytest.approx(remaining[(remaining >= left) & (remaining < right)].mean())
    wrong = fit_representatives(GRID, values, 1.0 - rewards, lengths)
    assert (np.diff(wrong.reward_values) > 0).all(), "an overconfident head must not cost the training"
    sparse = fit_representatives(GRID, values[:2], rewards[:2], lengths[:2])
    assert list(sparse.reward_values) == list(GRID.reward_values)


def test_every_trained_token_weighs_alike_in_short_rows_and_in_long_ones(tmp_path: Path) -> None:
    short = [row([2, 4], [5, 1], 1.0)] * 16
    long = [row([2, 4], [*range(4, 15), 1], 0.0)] * 16
    model, collate = tiny(), JointCollator(GRID, 0)
    trainer = JointTrainer(
        model, arguments(tmp_path), grid=GRID, train_dataset=Dataset.from_list(short + long), data_collator=collate
    )
    assert trainer.usual_tokens == pytest.approx(16 * (2 + 12) / 2)
    with torch.no_grad():
        halves = [float(trainer.compute_loss(model, collate(rows))) for rows in (short, long)]  # type: ignore[arg-type]
        batch = collate(short + long)
        labelled = batch["targets"] >= 0
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        together = float(joint_loss(logits[labelled][:, 16:], batch["targets"][labelled]) / labelled.sum())
    assert np.mean(halves) == pytest.approx(together, rel=1e-4)


def test_a_plain_model_loss_weighs_tokens_alike_too(tmp_path: Path) -> None:
    def batch(rows: int, length: int) -> dict[str, torch.Tensor]:
        ids = torch.arange(2, 2 + length).repeat(rows, 1)
        labels = ids.clone()
        labels[:, 0] = -100
        return {"input_ids": ids, "labels": labels}

    lengths = [{"input_ids": [2] * n, "length": n, "prompt_length": 1} for n in [3] * 16 + [13] * 16]
    model = tiny()
    trainer = LengthBatchingTrainer(model, arguments(tmp_path), train_dataset=Dataset.from_list(lengths))
    with torch.no_grad():
        found = [float(trainer.compute_loss(model, batch(16, n))) for n in (3, 13)]  # type: ignore[arg-type]
        means = [float(model(**batch(16, n)).loss) for n in (3, 13)]
    assert found[0] + found[1] == pytest.approx(2 * (2 * means[0] + 12 * means[1]) / 14, rel=1e-5)


def test_a_model_without_room_for_the_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReservedTokensError):
        JointTrainer(tiny(vocab_size=24), arguments(tmp_path), grid=GRID)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), top_k=st.integers(1, 20), scale=st.sampled_from([0.1, 3.0, 30.0]))
def test_a_coarser_divergence_is_that_of_the_coarser_distributions(seed: int, top_k: int, scale: float) -> None:
    torch.manual_seed(seed)
    logits = (torch.randn(3, 32, dtype=torch.float64) * scale).float().requires_grad_()
    reference = torch.randn(3, 32) * scale
    found = policy_kl(logits, reference, GRID, top_k)
    exact = policy_kl(logits, reference, GRID)
    p, q = (softmax(item[:, :16].double(), -1) for item in (logits, reference))
    expected = torch.zeros(3, dtype=torch.float64)
    for i in range(3):
        kept = q[i].argsort(descending=True)[:top_k]
        others = [v for v in range(16) if v not in kept.tolist()]
        groups = [[int(v)] for v in kept] + ([others] if others else [])
        for group in groups:
            mass, original = p[i, group].sum(), q[i, group].sum()
            expected[i] = expected[i] + mass * (mass.log() - original.log())
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)
    assert (found <= exact + 1e-4 * (1 + exact.abs())).all()
    (gradient,) = torch.autograd.grad(found.sum(), logits, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-3)
