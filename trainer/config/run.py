"""The settings of a run: frozen dataclasses, checked on construction; yaml_file.py reads them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import ConfigDict

from trainer.common.errors import InputError
from trainer.config.checks import MAX_SEED, SETTINGS
from trainer.config.distill import DistillConfig
from trainer.config.language_model import LanguageModelConfig
from trainer.config.teachers import TeachersConfig
from trainer.config.watch import WatchConfig
from trainer.security.credentials import STUDENT_REMEDY, check_host

DEFAULT_STEPS = 1000
Group = Literal["dialogue", "response"]
"""What stays together in a micro-batch."""


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """Adam and its schedule."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    schedule: Literal["constant", "linear"] = "constant"
    """After warm-up: stay, or fall linearly to 0 at the last step."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm."""

    def __post_init__(self) -> None:
        for name, value in (("learning_rate", self.learning_rate), ("clip_norm", self.clip_norm)):
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"optimiser.{name} must be above 0, got {value}.")
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0.0 <= value < 1.0:
                raise InputError(f"optimiser.{name} must be in [0, 1), got {value}.")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise InputError(f"optimiser.weight_decay must be >= 0, got {self.weight_decay}.")
        if self.warmup_steps < 0:
            raise InputError(f"optimiser.warmup_steps must be >= 0, got {self.warmup_steps}.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, in which batches, and what is kept."""

    steps: int | None = None
    """Optimiser steps; 1,000 if epochs is not given either."""
    epochs: int | None = None
    """Passes over the training examples, instead of steps."""
    share: float = 1.0
    """Share of the training dialogues that the run learns from (learning curves): a seeded choice,
    of which a smaller share takes a part."""
    share_seed: int = 0
    """Of that choice, apart from the run's own: students of several seeds meet the same share."""
    batch_size: int = 32
    """Examples per optimiser step over all ranks."""
    micro_batch_size: int | None = None
    """Examples per forward on one rank; None: the rank's whole share at once. It must divide the
    share; grouped by dialogue a forward has so many on average."""
    group: Group | None = None
    """dialogue: the responses of a dialogue meet in one micro-batch, which forwards the dialogue
    once. response: each response is drawn, and forwarded, on its own. None: dialogue for a causal
    student, response for one that reads each response on its own: with action tokens that do not
    stand in the history."""
    checkpoint_every: int = 200
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: int = 2
    """The newest N stay, so that a run can resume from the one before a damaged one."""
    select: Literal["last", "best"] = "last"
    """Which weights are exported: the last ones, or those of the checkpoint with the lowest loss
    of gold tokens on valid."""
    patience: int | None = None
    """With select best: checkpoints without a better loss after which the run ends."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Of weights and activations; the optimiser's and the loss are float32 always. fp16 has a
    dynamic loss scale, and the steps that it skips count as steps."""
    resume: bool = True
    """Go on from the newest whole checkpoint in the run directory, if there is one."""
    loss_chunk_size: int = 256
    """Positions whose logits are held at once."""

    def __post_init__(self) -> None:
        for name, value in (
            ("batch_size", self.batch_size),
            ("checkpoint_every", self.checkpoint_every),
            ("keep_checkpoints", self.keep_checkpoints),
            ("loss_chunk_size", self.loss_chunk_size),
        ):
            if value < 1:
                raise InputError(f"train.{name} must be at least 1, got {value}.")
        if self.steps is not None and self.epochs is not None:
            raise InputError(
                f"train.steps must be null beside train.epochs, got {self.steps} and "
                f"{self.epochs}. Set one of them to null."
            )
        for name, value in (("steps", self.steps), ("epochs", self.epochs)):
            if value is not None and value < 1:
                raise InputError(f"train.{name} must be at least 1, got {value}.")
        if not 0.0 < self.share <= 1.0:
            raise InputError(f"train.share must be in (0, 1], got {self.share}.")
        if not 0 <= self.share_seed <= MAX_SEED:
            raise InputError(f"train.share_seed must be in [0, {MAX_SEED}], got {self.share_seed}.")
        if self.patience is not None and (self.patience < 1 or self.select != "best"):
            raise InputError(
                f"train.patience must be at least 1, with train.select best, got {self.patience} "
                f"and {self.select}."
            )
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise InputError(
                f"train.micro_batch_size must be at least 1, got {self.micro_batch_size}."
            )

    @property
    def num_steps(self) -> int:
        """Optimiser steps of a config whose epochs are counted out already."""
        assert self.epochs is None, "epochs are made steps where the examples are known"
        return DEFAULT_STEPS if self.steps is None else self.steps


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run of `deepspeed trainer/main.py` or of `python -m trainer.pretrain dialogue`."""

    __pydantic_config__: ClassVar[ConfigDict] = SETTINGS

    data: str
    """Folder made by `python -m trainer.data prepare`."""
    output: str
    """Run directory."""
    seed: int = 0
    zero_stage: Literal[0, 1, 2, 3] = 1
    """Picks trainer/configs/zero{0,1,2,3}.json, unless `deepspeed` names a file."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What lies in the host's memory and not on the GPU: the optimiser's states, or parameters
    too (stage 3)."""
    deepspeed: str | None = None
    """A DeepSpeed config of your own, which must not disagree with this one."""
    action_tokens: bool = True
    """The student's response starts with [REC] or [GEN] (paper section 3.4)."""
    action_history: bool = False
    """So do the recommender's earlier turns in the context, so that one pass reads a dialogue."""
    action_loss: bool = False
    """The student learns to predict its own action token, from the gold one alone."""
    classifier: str | None = None
    """Frozen turn classifier that picks the action token at inference; noted in the export."""
    item_vectors: str | None = None
    """Frozen recommendation teacher whose film vectors start the films' rows; None: random rows."""
    knowledge: str | None = None
    """Frozen recommendation teacher whose entities and words a kgsf student attends to."""
    plugins: tuple[str, ...] = ()
    """Modules that add kinds of teachers: each has a dictionary TEACHER_KINDS."""
    student: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    teachers: TeachersConfig = field(default_factory=TeachersConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise InputError(f"seed must be in [0, {MAX_SEED}], got {self.seed}.")
        for name, holds in (
            ("action_history", self.action_history),
            ("action_loss", self.action_loss),
        ):
            if holds and not self.action_tokens:
                raise InputError(
                    f"{name} must be false with action_tokens false, got true. Set both, or none."
                )
        lowest = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero_stage < lowest:
            raise InputError(
                f"zero_stage must be at least {lowest} with offload {self.offload}, got "
                f"{self.zero_stage}. Raise it, or offload less."
            )
        if self.train.precision == "fp16" and self.zero_stage == 0:
            # There DeepSpeed 0.19 divides gradients by a scale that no loss was multiplied with:
            # its engine scales the loss for the optimisers of ZeRO alone.
            raise InputError(
                "zero_stage must be at least 1 with train.precision fp16, got 0. Raise it: on one "
                "rank stage 1 costs no traffic."
            )
        if self.teachers.cache and not self.distill.temperature_schedule.is_constant:
            raise InputError(
                "distill.temperature_schedule.form must be constant beside teachers.cache, got "
                f"{self.distill.temperature_schedule.form}: targets at the temperature of one step "
                "are never asked for again. Leave out one of the two."
            )
        if self.offload != "none" and self.deepspeed is not None:
            raise InputError(
                f"offload must be none beside deepspeed, got {self.offload} and {self.deepspeed}. "
                "Say it in that file's zero_optimization."
            )
        if self.watch.metrics_port is not None:
            host = self.watch.metrics_host
            check_host("watch.metrics_host", host, self.teachers, remedy=STUDENT_REMEDY)
