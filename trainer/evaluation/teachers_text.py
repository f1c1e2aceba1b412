"""teachers.md: the quality report of the frozen models as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def to_markdown(content: Mapping[str, Any]) -> str:
    """The tables of teachers.md."""
    lines = [
        f"Split {content['split']}: {content['num_samples']} gold movies, {content['num_new']} of "
        "them not named in their context (new).",
        "",
        "| ranks by | R@1 | R@10 | R@50 | new R@1 | new R@10 | new R@50 | cross entropy |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    teachers = list(content["recommendation"].values())
    rows = {name: [scores] for name, scores in content["baselines"].items()}
    if teachers:
        rows = {f"recommendation teacher ({len(teachers)} seeds)": teachers, **rows}
    for name, seeds in rows.items():
        cells = [
            _spread([seed[view][f"recall_at_{k}"] for seed in seeds])
            for view in ("all_gold", "new_items")
            for k in (1, 10, 50)
        ]
        losses = [seed["cross_entropy"] for seed in seeds if "cross_entropy" in seed]
        lines.append(f"| {name} | {' | '.join(cells)} | {_spread(losses) if losses else '-'} |")
    dialogue = list(content["dialogue"].values())
    if dialogue:
        kinds = sorted({seed["architecture"] for seed in dialogue})
        groups = [[seed for seed in dialogue if seed["architecture"] == k] for k in kinds]
        names = [f"{k} ({len(group)} seeds)" for k, group in zip(kinds, groups, strict=True)]
        lines += ["", f"| dialogue teacher | {' | '.join(names)} |"]
        lines.append(f"|---|{'---:|' * len(groups)}")
        for title, key in (
            ("item mass at item steps", "item_mass_at_item_steps"),
            ("item mass at word steps", "item_mass_at_word_steps"),
            ("perplexity", "perplexity"),
            ("calibration error of item mass", "calibration_error"),
        ):
            cells = [_spread([seed[key] for seed in group]) for group in groups]
            lines.append(f"| {title} | {' | '.join(cells)} |")
        lines += ["", "![calibration](calibration.png)"]
    classifiers = content["classifier"]
    if classifiers["models"]:
        models = list(classifiers["models"].values())
        lines += ["", "| says [REC] or [GEN] | accuracy | F1 of [REC] |", "|---|---:|---:|"]
        rows = {f"classifier ({len(models)} seeds)": models, "majority": [classifiers["majority"]]}
        for name, seeds in rows.items():
            cells = [_spread([seed[key] for seed in seeds]) for key in ("accuracy", "f1")]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("| oracle, the bound | 1 | 1 |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> str:
    mean = sum(values) / len(values)
    digits = 1 if mean >= 10 else 2 if mean >= 1 else 3
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
