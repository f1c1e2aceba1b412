"""The tables of the ablation and their arms: what each cell differs in, declared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.common.errors import InputError
from trainer.evaluation.arms import Arm

VANILLA = "vanilla"
DIALOGUE_TEACHER = "dialogue_teacher"
RECOMMENDATION_TEACHER = "recommendation_teacher"
CEILING = (DIALOGUE_TEACHER, RECOMMENDATION_TEACHER)
"""The teachers themselves, as a table's ceiling: nothing is trained."""
OF_TEACHERS = "teachers_"
"""Before the name of the teachers in which alone an arm of the table `teacher` differs."""
WEAKER = ("half", "quarter", "eighth")
"""Names of teachers that were fitted for less long."""
ANSWERS = "respond."
"""Before an option of `trainer.evaluation.respond` that an arm differs in, not in its training."""
FALL: Mapping[str, Any] = {"form": "linear", "to": 0.2, "steps": 650}
"""Of a gamma that leaves the end of the run to the gold tokens."""
SPECIAL_TOKEN: Mapping[str, Any] = {
    "action_tokens": True,
    "action_history": True,
    "action_loss": True,
}
"""The reading of the paper's special token (section 3.4) that the arms with +ST have, chosen on
valid (docs/training.md). In the history too, so that all arms read a dialogue in one pass."""
NO_TOKEN: Mapping[str, Any] = dict.fromkeys(SPECIAL_TOKEN, False)


@dataclass(frozen=True, kw_only=True)
class Table:
    """One comparison: arms that start from the same film rows."""

    name: str
    title: str
    arms: tuple[Arm, ...]
    baseline: str = VANILLA
    """The arm that all others are compared with."""
    has_ceiling: bool = True
    """Whether the teachers themselves stand in it."""
    diverges: bool = False
    """Whether each student is compared with the dense dialogue teacher, too (`divergence`)."""
    shown: tuple[str, ...] = ()
    """Metrics in its table beside those of all tables."""

    @property
    def ceiling(self) -> tuple[Arm, ...]:
        """The teachers, if they stand in this table; they have one seed."""
        return tuple(Arm(name=it, settings={}) for it in CEILING) if self.has_ceiling else ()

    @property
    def declared(self) -> frozenset[str]:
        """The settings in which arms of this table may differ."""
        return frozenset(key for arm in self.arms for key in arm.settings)

    def arm(self, name: str) -> Arm:
        """The arm of a name; InputError if the table has none."""
        for each in self.arms:
            if each.name == name:
                return each
        raise InputError(
            f"an arm of {self.name} must be one of {', '.join(it.name for it in self.arms)}, got "
            f"{name}. Remove its cells, or declare it."
        )


def _gate(gate: str, fixed_lambda: float | None = None) -> dict[str, Any]:
    return {"distill.gate": gate, "distill.fixed_lambda": fixed_lambda}


_PAPER = (
    Arm(name=VANILLA, settings={"distill.gamma": 0.0, **_gate("hard"), **NO_TOKEN}),
    Arm(name="plus_D", settings={**_gate("fixed", 0.0), **NO_TOKEN}),
    Arm(name="plus_R", settings={**_gate("fixed", 1.0), **NO_TOKEN}),
    Arm(name="plus_D_R", settings={**_gate("hard"), **NO_TOKEN}),
    Arm(name="plus_D_R_ST", settings={**_gate("hard"), **SPECIAL_TOKEN}),
    Arm(name="soft", settings={**_gate("soft"), **SPECIAL_TOKEN}),
    Arm(name="lambda_0_5", settings={**_gate("fixed", 0.5), **SPECIAL_TOKEN}),
)


def _of_paper(*names: str) -> tuple[Arm, ...]:
    return tuple(arm for arm in _PAPER if arm.name in names)


def _values(key: str, values: Sequence[Any]) -> tuple[Arm, ...]:
    """An arm for each value of a setting, named by it."""
    last = key.rpartition(".")[2]
    return tuple(
        Arm(name=f"{last}_{str(value).replace('.', '_')}", settings={key: value})
        for value in values
    )


_VANILLA = Arm(name=VANILLA, settings={"distill.gamma": 0.0})
_TAILS = tuple(
    Arm(name=f"{tail}_{k}", settings={"distill.tail": tail, "distill.top_k": k})
    for tail in ("bucket", "drop", "renormalise", "sampled")
    for k in (16, 64)
)
_DECODED = tuple(
    Arm(
        name=f"{name}_{decoding}" + ("" if top_p is None else f"_{top_p}".replace(".", "_")),
        settings={
            f"{ANSWERS}decoding": decoding,
            f"{ANSWERS}top_p": top_p,
            **({"distill.gamma": 0.0} if name == VANILLA else {}),
        },
    )
    for decoding, top_p in (("greedy", None), *(("nucleus", p) for p in (0.5, 0.7, 0.9)))
    for name in (VANILLA, "plus_D_R")
)
_FALLING = Arm(
    name="gamma_0_8_to_0_2",
    settings={
        "distill.gamma": 0.8,
        **{f"distill.gamma_schedule.{key}": it for key, it in FALL.items()},
    },
)
_SIZES = tuple(
    Arm(
        name=f"{name}_{text}",
        settings={"train.share": share, **({"distill.gamma": 0.0} if name == VANILLA else {})},
    )
    for share, text in ((0.125, "1_8"), (0.25, "1_4"), (0.5, "1_2"), (1.0, "all"))
    for name in (VANILLA, "plus_D_R")
)

_READINGS = (
    Arm(name="no_token", settings=NO_TOKEN),
    Arm(name="before_response", settings={"action_tokens": True}),
    Arm(name="history", settings={"action_tokens": True, "action_history": True}),
    Arm(
        name="history_loss",
        settings={"action_tokens": True, "action_history": True, "action_loss": True},
    ),
)

TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        Table(name="paper", title="Random film rows (the paper's Tables 5 and 6)", arms=_PAPER),
        Table(
            name="vectors",
            title="Film rows from the recommendation teacher's vectors",
            arms=_of_paper(VANILLA, "plus_D_R", "plus_D_R_ST", "soft"),
        ),
        Table(
            name="kgsf",
            title="KGSF's transformer",
            arms=_of_paper(VANILLA, "plus_D_R", "plus_D_R_ST"),
        ),
        Table(
            name="tail",
            title="What is done with the mass that was not sent",
            arms=_TAILS,
            baseline="bucket_64",
            has_ceiling=False,
            diverges=True,
            shown=("kl_dialogue", "teacher_agreed", "student_entropy"),
        ),
        Table(
            name="size",
            title="Share of the training dialogues",
            arms=_SIZES,
            baseline=f"{VANILLA}_all",
            has_ceiling=False,
        ),
        Table(
            name="teacher",
            title="Quality of the teachers",
            arms=(
                Arm(name=VANILLA, settings={"distill.gamma": 0.0}),
                *(Arm(name=f"{OF_TEACHERS}{it}", settings={}) for it in ("full", *WEAKER)),
            ),
            has_ceiling=False,
        ),
        Table(
            name="actions",
            title="Readings of the action token",
            arms=_READINGS,
            baseline="no_token",
            has_ceiling=False,
        ),
        Table(
            name="eta",
            title="Threshold of the hard gate",
            arms=(_VANILLA, *_values("distill.eta", (0.05, 0.15, 0.3, 0.6))),
            has_ceiling=False,
        ),
        Table(
            name="gamma",
            title="Weight of the teachers",
            arms=(*_values("distill.gamma", (0.0, 0.2, 0.4, 0.6, 0.8, 0.95)), _FALLING),
            baseline="gamma_0_0",
            has_ceiling=False,
            diverges=True,
            shown=("repeated_share", "kl_dialogue", "student_entropy"),
        ),
        Table(
            name="decoding",
            title="Greedy and nucleus decoding",
            arms=_DECODED,
            baseline=f"{VANILLA}_greedy",
            shown=("repeated_share",),
        ),
        Table(
            name="k",
            title="Entries kept of a dialogue row",
            arms=(_VANILLA, *_values("distill.top_k", (4, 16, 64, 256))),
            has_ceiling=False,
        ),
        Table(
            name="temperature",
            title="Temperature of the teachers' rows",
            arms=(_VANILLA, *_values("distill.temperature", (0.5, 1.0, 2.0, 4.0))),
            has_ceiling=False,
            diverges=True,
            shown=("repeated_share", "kl_dialogue", "student_entropy"),
        ),
    )
}
"""Name -> table. What all cells of a table share beside it is said in a config."""


def table_of(name: str) -> Table:
    """The table of a name; InputError if there is none."""
    if name not in TABLES:
        raise InputError(f"a table must be one of {', '.join(TABLES)}, got {name}. Name one.")
    return TABLES[name]
