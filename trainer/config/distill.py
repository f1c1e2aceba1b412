"""How the teachers' targets are cut down and mixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from protos.limits import MAX_TEMPERATURE, MIN_TEMPERATURE
from protos.value_formats import FORMATS
from trainer.common.errors import InputError
from trainer.config.named_teachers import NamedTeacher, check_named_teachers, mixture_of
from trainer.config.schedule import Schedule

MAX_TOP_K = 1 << 16


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """How the teachers' targets are cut down and mixed (paper Eqs. 6-11)."""

    gamma: float = 0.4
    """Weight of the teachers against the gold token (Eq. 10); 0 trains without any teacher."""
    gamma_schedule: Schedule = field(default_factory=Schedule)
    """How gamma changes during the run; at steps where it has come to 0 nothing is asked."""
    temperature: float = 1.0
    """Of the teachers' rows and of the student that learns from them; gate and gold token stay at
    1 (docs/loss.md)."""
    temperature_schedule: Schedule = field(default_factory=Schedule)
    """How the temperature changes during the run."""
    gate: Literal["hard", "soft", "fixed"] = "hard"
    """Eq. 6, Eq. 7, or `fixed_lambda` at every step (the ablations of the paper's section 4.7)."""
    fixed_lambda: float | None = None
    """With gate fixed: 0 learns from the dialogue teacher alone, 1 from the recommendation teacher
    alone, and no request goes to the other one."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Kind -> share of the teachers' weight at every position, of kinds that plugins add; the
    paper's two teachers divide the rest by lambda."""
    teachers: Mapping[str, NamedTeacher] = field(default_factory=dict)
    """Name -> teacher, of kinds that have several, or one that is chosen by its weights; of any
    other kind it is the one that the fleet serves. A kind's teachers are mixed by `weight`."""
    eta: float = 0.6
    """Threshold of the hard gate on the dialogue teacher's item mass."""
    top_k: int = 64
    """Entries kept per position of the dialogue teacher; 0 keeps all."""
    recommendation_top_p: float = 0.95
    """The recommendation row is cut where its kept mass reaches this; 1 keeps all items."""
    recommendation_top_k: int = 2048
    """Cap on the entries of a recommendation row; 0 means no cap."""
    tail: Literal["bucket", "drop", "renormalise", "sampled"] = "bucket"
    """What is done with the mass that was not sent (docs/loss.md). With "sampled" there is none:
    top_k and recommendation_top_k are numbers of draws."""
    values: str = "uint8"
    """Precision of log-probs on the wire: a name of protos/value_formats.py."""

    def __post_init__(self) -> None:
        self.gamma_schedule.check("distill.gamma_schedule")
        self.temperature_schedule.check("distill.temperature_schedule")
        temperatures = (MIN_TEMPERATURE, MAX_TEMPERATURE)
        for name, value, (low, high) in (
            ("gamma", self.gamma, (0.0, 1.0)),
            ("gamma_schedule.to", self.gamma_schedule.to, (0.0, 1.0)),
            ("eta", self.eta, (0.0, 1.0)),
            ("temperature", self.temperature, temperatures),
            ("temperature_schedule.to", self.temperature_schedule.to, temperatures),
        ):
            if value is not None and not low <= value <= high:
                raise InputError(f"distill.{name} must be in [{low:g}, {high:g}], got {value}.")
        if self.gamma == 0.0 and not self.gamma_schedule.is_constant:
            # A gamma of 0 stands for a student without teachers, in comparisons and on cards too.
            raise InputError(
                f"distill.gamma must be above 0 with distill.gamma_schedule, got {self.gamma}: "
                "without any teacher. Start at a small number, or leave the schedule out."
            )
        if self.values not in FORMATS:
            raise InputError(
                f"distill.values must be one of {', '.join(FORMATS)}, got {self.values}."
            )
        if (self.gate == "fixed") != (self.fixed_lambda is not None):
            raise InputError(
                "distill.fixed_lambda must be given with distill.gate fixed, and only then, got "
                f"{self.fixed_lambda} and {self.gate}."
            )
        if self.fixed_lambda is not None and not 0.0 <= self.fixed_lambda <= 1.0:
            raise InputError(f"distill.fixed_lambda must be in [0, 1], got {self.fixed_lambda}.")
        if any(not share > 0.0 for share in self.shares.values()) or sum(self.shares.values()) >= 1:
            raise InputError(
                "distill.shares must be above 0 and sum to less than 1, which is the share of all "
                f"teachers together, got {dict(self.shares)}."
            )
        if not 0.0 < self.recommendation_top_p <= 1.0:
            raise InputError(
                f"distill.recommendation_top_p must be in (0, 1], got {self.recommendation_top_p}."
            )
        for name, value in (
            ("top_k", self.top_k),
            ("recommendation_top_k", self.recommendation_top_k),
        ):
            if not 0 <= value <= MAX_TOP_K:
                raise InputError(f"distill.{name} must be in [0, {MAX_TOP_K}], got {value}.")
        if self.tail == "sampled" and not (self.top_k and self.recommendation_top_k):
            raise InputError(
                "distill.top_k and distill.recommendation_top_k must be >= 1 with distill.tail "
                f"sampled, which draws so many entries, got {self.top_k} and "
                f"{self.recommendation_top_k}."
            )

        check_named_teachers(self.teachers, max_top_k=MAX_TOP_K, draws=self.tail == "sampled")

    def mixture(self, kind: str) -> dict[str, float]:
        """Name -> part of a kind's mixture, sorted by name; these parts sum to 1.

        A kind without names has one teacher, of the kind's own name.
        """
        return mixture_of(self.teachers, kind)

    def kind_of(self, name: str) -> str:
        """The kind of the teacher of a name."""
        return self.teachers[name].kind if name in self.teachers else name

    def at(self, step: int) -> DistillConfig:
        """The settings of one step, counted from 0, which have no schedules any more."""
        if self.gamma_schedule.is_constant and self.temperature_schedule.is_constant:
            return self
        return replace(
            self,
            gamma=self.gamma_schedule.value(self.gamma, step),
            gamma_schedule=Schedule(),
            temperature=self.temperature_schedule.value(self.temperature, step),
            temperature_schedule=Schedule(),
        )

    @property
    def temperatures(self) -> tuple[float, float]:
        """The lowest and the highest temperature of any step."""
        return self.temperature_schedule.ends(self.temperature)

    @property
    def value_format(self) -> int:
        """The wire's number for `values`."""
        return FORMATS[self.values].number
