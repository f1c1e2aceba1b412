"""Which figures the tables of the ablation have: scores of arms along a setting that they declare.

Torch-free and without matplotlib: figures.py draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.ablation.arm_results import ALL, ArmResults
from trainer.ablation.arms import TABLES, Table
from trainer.ablation.seed_means import SeedMean

Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One arm in one panel."""

    x: float
    mean: SeedMean
    label: str = ""
    """Written beside it; empty: nothing."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points of one line, in the order of x or of the arms."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class Along:
    """A figure of one table: each metric along a setting, a line for each value of another."""

    table: str
    x: str
    """The setting, of the arms that declare it."""
    title: str
    """Of the axis."""
    line: Callable[[Settings], str]
    """Settings of an arm -> the line that it belongs to."""
    metrics: tuple[str, ...] = ("f1_at_10", "perplexity", "dist_4")
    doubles: bool = True
    """Whether values of the setting double from one to the next."""


def _taught(settings: Settings) -> str:
    return "undistilled" if settings.get("distill.gamma") == 0.0 else "distilled"


ALONG = (
    Along(
        table="tail",
        x="distill.top_k",
        title="entries kept of a dialogue row",
        line=lambda settings: settings["distill.tail"],
        metrics=("kl_dialogue", "perplexity", "f1_at_10"),
    ),
    Along(table="size", x="train.share", title="share of the dialogues", line=_taught),
    Along(
        table="gamma",
        x="distill.gamma",
        title="gamma, the weight of the teachers",
        line=lambda settings: "falling to .2" if len(settings) > 1 else "constant",
        metrics=("f1_at_10", "perplexity", "dist_4", "words_per_response"),
        doubles=False,
    ),
    Along(
        table="temperature",
        x="distill.temperature",
        title="temperature",
        line=lambda _: "distilled",
        metrics=("f1_at_10", "perplexity", "dist_4", "kl_dialogue"),
    ),
)
TRADED = ("gamma", "temperature", "decoding")
"""Tables whose arms pay for what they gain."""


def curves(along: Along, results: Sequence[ArmResults], metric: str) -> list[Curve]:
    """The lines of one panel; arms that do not declare the setting, or have no score, are out."""
    lines: dict[str, list[Point]] = {}
    for arm, settings in _declared(TABLES[along.table], results):
        mean = arm.means(ALL).get(metric)
        if along.x in settings and mean is not None:
            point = Point(x=float(settings[along.x]), mean=mean)
            lines.setdefault(along.line(settings), []).append(point)
    return [
        Curve(name=name, points=tuple(sorted(points, key=lambda it: it.x)))
        for name, points in lines.items()
    ]


def traded(table: Table, results: Sequence[ArmResults], price: str, gain: str) -> list[Curve]:
    """Gain over price of the arms of a table, in their order; students without teachers apart.

    A teacher that has both is a point of its own.
    """
    lines: dict[str, list[Point]] = {}
    declared = {
        arm.name: (_taught(settings), settings) for arm, settings in _declared(table, results)
    }
    ceiling = {arm.name: (arm.name.replace("_", " "), {}) for arm in table.ceiling}
    for arm in results:
        means = arm.means(ALL)
        if price in means and gain in means:
            line, settings = {**declared, **ceiling}[arm.name]
            point = Point(x=means[price].mean, mean=means[gain], label=_label(settings))
            lines.setdefault(f"{table.name}, {line}", []).append(point)
    return [Curve(name=name, points=tuple(points)) for name, points in lines.items()]


def _label(settings: Settings) -> str:
    """The value that an arm differs in, beside gamma 0; of a schedule both its ends."""
    told = [
        str(it)
        for key, it in settings.items()
        if it not in (None, 0.0, "nucleus") and not key.endswith((".form", ".steps"))
    ]
    return " to ".join(told)


def _declared(
    table: Table, results: Sequence[ArmResults]
) -> list[tuple[ArmResults, Mapping[str, Any]]]:
    """The arms of a table that have cells, and what they declare."""
    settings = {arm.name: arm.settings for arm in table.arms}
    return [(arm, settings[arm.name]) for arm in results if arm.name in settings]
