"""The settings of a run: frozen dataclasses, checked on construction; config_file.py reads them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from protos import codec
from trainer.credentials import STUDENT_REMEDY, SecurityFiles, check_host, host_of
from trainer.models.language_model_config import LanguageModelConfig
from trainer.spans import check_endpoint

MAX_TOP_K = 1 << 16
DEFAULT_STEPS = 1000
MAX_SEED = (1 << 63) - 1
MAX_PATIENCE_S = 6 * 3600.0
MAX_CACHE_BYTES = 1 << 39
MAX_PORT = 65535


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """How the two teachers' targets are cut down and mixed (paper Eqs. 6-11)."""

    gamma: float = 0.4
    """Weight of the teachers against the gold token (Eq. 10); 0 trains without any teacher."""
    gate: Literal["hard", "soft", "fixed"] = "hard"
    """Eq. 6, Eq. 7, or `fixed_lambda` at every step (the ablations of the paper's section 4.7)."""
    fixed_lambda: float | None = None
    """With gate fixed: 0 learns from the dialogue teacher alone, 1 from the recommendation teacher
    alone, and the other one is not asked."""
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
    values: Literal["uint8", "float16", "float32"] = "uint8"
    """Precision of log-probs on the wire."""

    def __post_init__(self) -> None:
        for name, value in (
            ("gamma", self.gamma),
            ("eta", self.eta),
        ):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"distill.{name} must be in [0, 1], got {value}.")
        if (self.gate == "fixed") != (self.fixed_lambda is not None):
            raise ValueError(
                "distill.fixed_lambda must be given with distill.gate fixed, and only then, got "
                f"{self.fixed_lambda} and {self.gate}."
            )
        if self.fixed_lambda is not None and not 0.0 <= self.fixed_lambda <= 1.0:
            raise ValueError(f"distill.fixed_lambda must be in [0, 1], got {self.fixed_lambda}.")
        if not 0.0 < self.recommendation_top_p <= 1.0:
            raise ValueError(
                f"distill.recommendation_top_p must be in (0, 1], got {self.recommendation_top_p}."
            )
        for name, value in (
            ("top_k", self.top_k),
            ("recommendation_top_k", self.recommendation_top_k),
        ):
            if not 0 <= value <= MAX_TOP_K:
                raise ValueError(f"distill.{name} must be in [0, {MAX_TOP_K}], got {value}.")
        if self.tail == "sampled" and not (self.top_k and self.recommendation_top_k):
            raise ValueError(
                "distill.top_k and distill.recommendation_top_k must be >= 1 with distill.tail "
                f"sampled, which draws so many entries, got {self.top_k} and "
                f"{self.recommendation_top_k}."
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of teachers that are asked."""
        if self.gamma == 0.0:
            return ()
        if self.fixed_lambda == 0.0:
            return ("dialogue",)
        return ("recommendation",) if self.fixed_lambda == 1.0 else ("dialogue", "recommendation")

    @property
    def value_format(self) -> int:
        """The wire's number for `values`."""
        formats = {"float32": codec.FLOAT32, "float16": codec.FLOAT16, "uint8": codec.UINT8}
        return formats[self.values]


@dataclass(frozen=True, kw_only=True)
class TeachersConfig(SecurityFiles):
    """Where the teachers are, what protects the way there, and how long the student waits."""

    directory: str = "127.0.0.1:50051"
    """host:port of the Directory; `python -m teacher_server up` prints it."""
    in_flight: int = 4
    """Batches whose targets are asked for ahead of the step that needs them."""
    deadline_s: float = 60.0
    """A request without an answer for so long goes to another replica."""
    hedge_percent: float = 0.0
    """Of the requests so many, the slowest, are sent to a second replica too; the first answer
    counts. 0: none."""
    max_bytes: int = 1 << 30
    """Of targets that were asked for and not yet taken by a step, on each rank; batches asked for
    ahead wait while there is no room, but one may always be on its way."""
    connect_s: float = 10.0
    """How long the first contact with the Directory may take."""
    patience_s: float = 120.0
    """How long a kind may have no live replica before the run stops; six hours at most."""
    cache: str = ""
    """Folder on a local disk where targets are kept and looked for first, shared by the ranks of a
    node; empty: none."""
    cache_bytes: int = 64 << 30
    """Size of that folder at which nothing more is kept."""

    def __post_init__(self) -> None:
        if not 1 <= self.cache_bytes <= MAX_CACHE_BYTES:
            raise ValueError(
                f"teachers.cache_bytes must be in [1, {MAX_CACHE_BYTES}], got {self.cache_bytes}."
            )
        directory_host = host_of(self.directory)
        check_host("teachers.directory", directory_host, self, remedy=STUDENT_REMEDY)
        if not 1 <= self.in_flight <= 1024:
            raise ValueError(f"teachers.in_flight must be in [1, 1024], got {self.in_flight}.")
        if not 0.0 <= self.hedge_percent <= 50.0:
            raise ValueError(
                f"teachers.hedge_percent must be in [0, 50], got {self.hedge_percent}."
            )
        if self.max_bytes < 1:
            raise ValueError(f"teachers.max_bytes must be at least 1, got {self.max_bytes}.")
        for name, value in (
            ("deadline_s", self.deadline_s),
            ("connect_s", self.connect_s),
            ("patience_s", self.patience_s),
        ):
            if not 0 < value <= MAX_PATIENCE_S:
                raise ValueError(
                    f"teachers.{name} must be in (0, {MAX_PATIENCE_S:g}] seconds, got {value}."
                )


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """How a run can be watched from outside (docs/operations.md)."""

    metrics_port: int | None = None
    """Prometheus metrics of rank r are served at this port plus r; None: nowhere."""
    metrics_host: str = "127.0.0.1"
    """Address of those ports; beyond this machine they are protected as a teacher's, by
    server.pem and server.key of `teachers.tls` and by `teachers.token_file`."""
    spans: str = ""
    """OTLP/HTTP receiver of OpenTelemetry spans; empty: none are made."""

    def __post_init__(self) -> None:
        if self.metrics_port is not None and not 1 <= self.metrics_port <= MAX_PORT:
            raise ValueError(
                f"watch.metrics_port must be in [1, {MAX_PORT}], got {self.metrics_port}."
            )
        check_endpoint("watch.spans", self.spans)


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
                raise ValueError(f"optimiser.{name} must be above 0, got {value}.")
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0.0 <= value < 1.0:
                raise ValueError(f"optimiser.{name} must be in [0, 1), got {value}.")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"optimiser.weight_decay must be >= 0, got {self.weight_decay}.")
        if self.warmup_steps < 0:
            raise ValueError(f"optimiser.warmup_steps must be >= 0, got {self.warmup_steps}.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, in which batches, and what is kept."""

    steps: int | None = None
    """Optimiser steps; 1,000 if epochs is not given either."""
    epochs: int | None = None
    """Passes over the training examples, instead of steps."""
    batch_size: int = 32
    """Examples per optimiser step over all ranks."""
    micro_batch_size: int | None = None
    """Examples per forward on one rank; None: the rank's whole share at once."""
    checkpoint_every: int = 200
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: int = 2
    """The newest so many stay: if one is damaged, the run goes on from the one before it."""
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
    keep_freed_memory: bool = True
    """On a CPU: keep freed blocks in the process, which is faster, or give them back at once, so
    that a rank takes what `python -m trainer.plan` says."""

    def __post_init__(self) -> None:
        for name, value in (
            ("batch_size", self.batch_size),
            ("checkpoint_every", self.checkpoint_every),
            ("keep_checkpoints", self.keep_checkpoints),
            ("loss_chunk_size", self.loss_chunk_size),
        ):
            if value < 1:
                raise ValueError(f"train.{name} must be at least 1, got {value}.")
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"train.steps must be null beside train.epochs, got {self.steps} and "
                f"{self.epochs}. Set one of them to null."
            )
        for name, value in (("steps", self.steps), ("epochs", self.epochs)):
            if value is not None and value < 1:
                raise ValueError(f"train.{name} must be at least 1, got {value}.")
        if self.patience is not None and (self.patience < 1 or self.select != "best"):
            raise ValueError(
                f"train.patience must be at least 1, with train.select best, got {self.patience} "
                f"and {self.select}."
            )
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise ValueError(
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
    classifier: str | None = None
    """Frozen turn classifier that picks the action token at inference; noted in the export."""
    item_vectors: str | None = None
    """Frozen recommendation teacher whose film vectors start the films' rows; None: random rows."""
    knowledge: str | None = None
    """Frozen recommendation teacher whose entities and words a kgsf student attends to."""
    student: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    teachers: TeachersConfig = field(default_factory=TeachersConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed must be in [0, {MAX_SEED}], got {self.seed}.")
        lowest = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero_stage < lowest:
            raise ValueError(
                f"zero_stage must be at least {lowest} with offload {self.offload}, got "
                f"{self.zero_stage}. Raise it, or offload less."
            )
        if self.train.precision == "fp16" and self.zero_stage == 0:
            # There DeepSpeed 0.19 divides gradients by a scale that no loss was multiplied with:
            # its engine scales the loss for the optimisers of ZeRO alone.
            raise ValueError(
                "zero_stage must be at least 1 with train.precision fp16, got 0. Raise it: on one "
                "rank stage 1 costs no traffic."
            )
        if self.offload != "none" and self.deepspeed is not None:
            raise ValueError(
                f"offload must be none beside deepspeed, got {self.offload} and {self.deepspeed}. "
                "Say it in that file's zero_optimization."
            )
        if self.watch.metrics_port is not None:
            host = self.watch.metrics_host
            check_host("watch.metrics_host", host, self.teachers, remedy=STUDENT_REMEDY)
