"""The results page: every figure beside its target, as Markdown."""

from __future__ import annotations

from typing import Any

from zip_introspect.demo.equations import TIERS

COMMAND = "python -m zip_introspect.demo.recipe evaluate"


def page(figures: dict[str, Any]) -> str:
    """The whole page."""
    return "\n".join(
        [
            "# Figures of the embedded model",
            "",
            f"{figures['problems']} problems held out from all training, the five tiers in equal parts, seed "
            f"{figures['seed']}; temperature 1, alpha {figures['search']['alpha']}. Made by",
            "",
            "```console",
            f"$ {COMMAND} --seed {figures['seed']} --problems {figures['problems']}",
            "```",
            "",
            "which also writes the numbers behind this page to `docs/embedded-model-figures.json`.",
            "",
            "## Predictions",
            "",
            *_predictions(figures),
            "",
            "Value: the expected reward at the last prefix before the end of a sample. Within a problem: right against",
            "wrong samples of the same problem, averaged over the "
            f"{figures['prediction']['problems_with_both']} problems that have both. The joint at the prompt is",
            "measured by sampling each prompt many times and binning the final value and the length of each sample.",
            "",
            "## Search",
            "",
            *_search(figures["search"]),
            "",
            "Cost is the paper's: alpha times compute (the prompt once, every generated token) plus 1 - alpha times",
            "latency (serial steps), each relative to one sample of that prompt. Majority voting and best of n (by",
            f"value) are scored on {figures['search']['rival_samples']} stored samples of each problem; `zip_rc` runs "
            f"live with {figures['search']['samples']} samples at the most.",
            "",
            "### zip_rc less its rivals at equal cost",
            "",
            *_differences(figures["search"]["differences"]),
            "",
            "In points of accuracy, with 95% intervals from a paired bootstrap over problems. The rival is its own",
            "curve over its numbers of samples, read at the mean cost of `zip_rc`; below the cost of one sample, one",
            "sample stands for it, and where `zip_rc` cost more than its dearest setting, the row says so.",
            "",
        ]
    )


def summary(figures: dict[str, Any]) -> str:
    """The README's part: what the confidence is worth, and what `zip_rc` makes of it against majority voting."""
    found, search = figures["prediction"], figures["search"]
    accuracy = ", ".join(f"{found['accuracy'][str(tier)]:.2f}" for tier in TIERS)
    lines = [
        f"The embedded model on {figures['problems']} problems held out from its training "
        f"([all figures, and the command](docs/embedded-model-figures.md)):",
        "",
        "| Confidence at the end of a sample | |",
        "|---|---|",
        f"| right against wrong samples, AUROC | {found['auroc']:.3f} |",
        f"| the same within one problem | {found['auroc_within']:.3f} |",
        f"| calibration error (ECE, 10 bins) | {found['ece']:.3f} |",
        "",
        f"One sample is right in {accuracy} of the five tiers, easiest first. At equal cost "
        f"(alpha {search['alpha']}), in points of accuracy with 95% intervals:",
        "",
        "| `zip_rc` | cost | accuracy | over majority voting | on the hardest tier |",
        "|---|---|---|---|---|",
    ]
    rows = {row["setting"]: row for row in search["rows"] if row["strategy"] == "zip_rc"}
    for item in search["differences"]:
        if item["rival"] == "majority_vote":
            row = rows[item["beta"]]
            lines.append(
                f"| beta {item['beta']:g} | {row['cost']:.2f} | {row['accuracy']:.3f} | "
                f"{_interval(item['mix'])} | {_interval(item['hardest'])} |"
            )
    return "\n".join(lines)


def _predictions(figures: dict[str, Any]) -> list[str]:
    found, start, kl = figures["prediction"], figures["total_variation"], figures["kl"]
    at_least, at_most = ">=", "<="
    rows: list[tuple[str, str, float, float]] = [
        ("single-sample accuracy, easiest tier", at_least, 0.9, found["accuracy"]["1"]),
        ("single-sample accuracy, hardest tier", at_most, 0.6, found["accuracy"]["5"]),
        ("AUROC of the value", at_least, 0.9, found["auroc"]),
        ("AUROC of the value within a problem", at_least, 0.8, found["auroc_within"]),
        ("calibration error (ECE, 10 bins)", at_most, 0.05, found["ece"]),
        (
            f"total variation of the joint at the prompt ({start['problems']} problems x {start['rollouts']} samples)",
            at_most,
            0.46,
            start["mean"],
        ),
        ("KL from the base policy, nats a token", at_most, 0.02, kl["nats_per_token"]),
    ]
    lines = ["| Figure | Target | Measured | |", "|---|---|---|---|"]
    for name, relation, target, value in rows:
        reached = value >= target if relation == at_least else value <= target
        lines.append(f"| {name} | {relation} {target:.2f} | {value:.3f} | {'reached' if reached else '**missed**'} |")
    classified = ("F1", "f1"), ("accuracy", "accuracy"), ("recall of wrong answers", "recall_incorrect")
    lines += [f"| {name} of the value at 0.5 | | {found['classification'][key]:.3f} | |" for name, key in classified]
    tiers = ", ".join(f"tier {tier} {found['accuracy'][str(tier)]:.2f}" for tier in TIERS)
    return [*lines, "", f"Single-sample accuracy: {tiers}."]


def _search(search: dict[str, Any]) -> list[str]:
    heads = " | ".join(f"tier {tier}" for tier in TIERS)
    lines = [f"| Strategy | Setting | Cost | Accuracy | {heads} | Samples by tier |", "|---" * (5 + len(TIERS)) + "|"]
    for row in search["rows"]:
        setting = f"beta {row['setting']:g}" if row["strategy"] == "zip_rc" else f"{row['setting']} samples"
        tiers = " | ".join(f"{row['by_tier'][str(tier)]:.2f}" for tier in TIERS)
        samples = ", ".join(f"{row['samples'][str(tier)]:.1f}" for tier in TIERS) if "samples" in row else ""
        name = f"`{row['strategy']}`"
        lines.append(f"| {name} | {setting} | {row['cost']:.2f} | {row['accuracy']:.3f} | {tiers} | {samples} |")
    return lines


def _differences(differences: list[dict[str, Any]]) -> list[str]:
    lines = ["| beta | Rival | All tiers | Hardest tier |", "|---|---|---|---|"]
    for item in differences:
        rival = f"`{item['rival']}`" + ("" if item["covered"] else " (its dearest is cheaper)")
        lines.append(f"| {item['beta']:g} | {rival} | {_interval(item['mix'])} | {_interval(item['hardest'])} |")
    return lines


def _interval(item: dict[str, float]) -> str:
    return f"{100 * item['value']:+.1f} [{100 * item['low']:+.1f}, {100 * item['high']:+.1f}]"
