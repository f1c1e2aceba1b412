"""How many bytes a rank holds, and when the most: what DeepSpeed 0.19 and our loss allocate.

Some parts are held all the time (parameters, optimiser), others come and go within a step. A step
has four moments that may be its largest; the plan is the largest of them:

    start   the whole model, while it is cut up among the ranks; on a CPU in float32
    loss    all activations, a chunk of logits, the gradient of the output weight
    reduce  the end of the backward pass: all gradients, and the buckets of their exchange
    step    gradients once more in float32, for the optimiser

N parameters, W ranks, E elements of the output weight, b bytes of a weight.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainer.plan.shape import StudentSize

FLOAT32 = 4
# Adam keeps two moments of every parameter, in float32.
ADAM = 2 * FLOAT32
# Stage 0 flattens the gradients for the exchange, so many at a time (DeepSpeed's engine.py).
STAGE0_BUCKET = 500_000_000
# Interpreter, torch, DeepSpeed, a small corpus: measured, after three steps.
CPU_OVERHEAD = 620 << 20
# CUDA context, NCCL, cuBLAS: a usual figure, not measured.
GPU_OVERHEAD = 1 << 30
MAX_MICRO_BATCH = 4096

Parts = dict[str, int]
PARTS = (
    "parameters",
    "gradients",
    "optimiser",
    "activations",
    "loss",
    "buckets",
    "gathered",
    "fixed",
)


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """Sizes in elements, from a DeepSpeed config, where they are left out DeepSpeed's own."""

    reduce: int = 500_000_000
    max_live: int = 1_000_000_000
    sub_group: int = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Setting:
    """All that a plan depends on beside the student."""

    ranks: int
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    chunk_size: int = 256
    response_length: int = 32
    """Positions of an example that count in the loss."""
    accumulation: bool = False
    """Several micro batches in one step: gradients of the earlier ones lie beside the next."""
    offload: Literal["none", "optimizer", "all"] = "none"
    checkpointing: bool = False
    on_cpu: bool = False

    @property
    def weight_bytes(self) -> int:
        """Bytes of one weight."""
        return FLOAT32 if self.precision == "float32" else 2


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """Bytes of one rank at its largest moment, by part; and what it puts on the host beside."""

    stage: int
    moment: str
    parts: Parts
    host: int
    """Of what is offloaded; on a CPU it counts in `total` too."""

    @property
    def total(self) -> int:
        """Bytes on the device."""
        return sum(self.parts.values())


def read_buckets(path: Path) -> Buckets:
    """The bucket sizes of a DeepSpeed config file."""
    zero: dict[str, Any] = json.loads(path.read_text()).get("zero_optimization", {})
    return Buckets(
        reduce=int(zero.get("reduce_bucket_size", Buckets.reduce)),
        max_live=int(zero.get("stage3_max_live_parameters", Buckets.max_live)),
        sub_group=int(zero.get("sub_group_size", Buckets.sub_group)),
    )


def plan_stage(
    stage: int, size: StudentSize, setting: Setting, buckets: Buckets, *, micro_batch: int
) -> StagePlan:
    """The largest moment of one stage."""
    always, host = held(stage, size, setting, buckets)
    moments = {
        "loss": _at_loss(stage, size, setting, buckets, micro_batch),
        "reduce": _at_reduce(stage, size, setting, buckets),
        "step": _at_step(stage, size, setting, buckets),
    }
    candidates = {name: _add(always, parts) for name, parts in moments.items()}
    if setting.on_cpu or stage == 3:
        candidates["start"] = _at_start(stage, size, setting)
    moment = max(candidates, key=lambda name: sum(candidates[name].values()))
    return StagePlan(stage=stage, moment=moment, parts=candidates[moment], host=host)


def largest_micro_batch(
    stage: int, size: StudentSize, setting: Setting, buckets: Buckets, *, limit: int
) -> int:
    """The most examples of one forward whose plan is within `limit` bytes; 0: not even one."""

    def fits(micro_batch: int) -> bool:
        plan = plan_stage(stage, size, setting, buckets, micro_batch=micro_batch)
        return plan.total <= limit

    smallest, largest = 0, MAX_MICRO_BATCH
    while smallest < largest:
        middle = (smallest + largest + 1) // 2
        smallest, largest = (middle, largest) if fits(middle) else (smallest, middle - 1)
    return smallest


def held(stage: int, size: StudentSize, setting: Setting, buckets: Buckets) -> tuple[Parts, int]:
    """What a rank holds from the first step on, and the bytes of it that lie on the host."""
    count, b = size.num_parameters, setting.weight_bytes
    share = _share(count, setting.ranks)
    parameters = (share if stage == 3 else count) * b
    # Stages 1 to 3 keep a copy that the optimiser steps, in float32 too; so does stage 0 in bf16.
    master = share * FLOAT32 if stage else (0 if b == FLOAT32 else count * FLOAT32)
    optimiser = (share if stage else count) * ADAM + master
    gradients = share * b if stage == 3 else 0
    held_buckets = _bucket(size, setting, buckets) if stage == 3 else 0
    host = 0
    if setting.offload != "none" and stage:
        # Gradients in float32 for the host's optimiser, and what is copied back.
        host = optimiser + share * FLOAT32 + (share * b if stage < 3 else gradients)
        optimiser, gradients = 0, 0
        # Stages 1 and 2 keep room for the largest gradient on its way.
        held_buckets += size.output_weight * b if stage < 3 else 0
    if setting.offload == "all" and stage == 3:
        host, parameters = host + parameters, 0
    parts = {
        "parameters": parameters,
        "gradients": gradients,
        "optimiser": optimiser + (host if setting.on_cpu else 0),
        "buckets": held_buckets,
        "fixed": CPU_OVERHEAD if setting.on_cpu else GPU_OVERHEAD,
    }
    return parts, host


def _at_start(stage: int, size: StudentSize, setting: Setting) -> Parts:
    if not setting.on_cpu:
        # Brought there whole, then cut up one by one: of each its share, on the host if parameters
        # are offloaded, is copied before the rest of it goes.
        cut = 0 if setting.offload == "all" else _share(size.output_weight, setting.ranks)
        return {
            "parameters": (size.num_parameters + cut) * setting.weight_bytes,
            "fixed": GPU_OVERHEAD,
        }
    share = _share(size.num_parameters, setting.ranks)
    whole = size.num_parameters * FLOAT32
    copies = share * (setting.weight_bytes + FLOAT32) if stage == 3 else whole if stage else 0
    return {"parameters": whole + copies, "fixed": CPU_OVERHEAD}


def _at_loss(
    stage: int, size: StudentSize, setting: Setting, buckets: Buckets, micro_batch: int
) -> Parts:
    b = setting.weight_bytes
    activations = size.activations + (micro_batch - 1) * size.activations_per_example
    if setting.checkpointing:
        # A layer is run again before its backward pass.
        activations += micro_batch * size.layer_activations_per_example
    chunk = min(setting.chunk_size, micro_batch * setting.response_length) * size.vocab_size
    # The loss computes in float32 whatever the weights are; then it hands over their dtype.
    mixed = 0 if b == FLOAT32 else b
    share = _share(size.num_parameters, setting.ranks)
    earlier = {0: size.num_parameters, 1: size.num_parameters, 2: share, 3: 0}[stage] * b
    return {
        "activations": activations,
        "loss": chunk * (FLOAT32 + mixed) + size.output_weight * (FLOAT32 + mixed),
        "gradients": earlier if setting.accumulation else 0,
        "gathered": _gathered(size, buckets) * b if stage == 3 else 0,
    }


def _at_reduce(stage: int, size: StudentSize, setting: Setting, buckets: Buckets) -> Parts:
    b, bucket = setting.weight_bytes, _bucket(size, setting, buckets)
    # A tied weight's gradient waits, from the loss on, for that of the embedding.
    embedding = size.output_weight * b * (2 if size.is_tied else 1)
    if stage == 0:
        flat = min(size.num_parameters, STAGE0_BUCKET) * b
        return {"gradients": size.num_parameters * b, "buckets": flat}
    if stage == 1:
        return {"gradients": size.num_parameters * b, "buckets": bucket}
    if stage == 2:
        averaged = 0 if setting.offload != "none" else _share(size.num_parameters, setting.ranks)
        return {"gradients": averaged * b + size.output_weight * b, "buckets": bucket}
    return {
        "gradients": embedding,
        "buckets": bucket,  # sorted by rank before they are exchanged: once more
        "gathered": _gathered(size, buckets) * b,
    }


def _at_step(stage: int, size: StudentSize, setting: Setting, buckets: Buckets) -> Parts:
    b, share = setting.weight_bytes, _share(size.num_parameters, setting.ranks)
    if stage == 0:
        mixed = 0 if b == FLOAT32 else FLOAT32
        return {"gradients": size.num_parameters * (b + mixed)}
    if setting.offload != "none":
        return {}
    # Joined end to end, and that in float32, which it is already if b is.
    joined = FLOAT32 if b == FLOAT32 else b + FLOAT32
    if stage == 3:
        return {"gradients": min(share, buckets.sub_group) * joined}
    return {"gradients": share * (b + joined)}


def _gathered(size: StudentSize, buckets: Buckets) -> int:
    """Elements of the parameters that a rank of stage 3 has whole at a time."""
    return min(size.num_parameters, max(size.output_weight, buckets.max_live))


def _bucket(size: StudentSize, setting: Setting, buckets: Buckets) -> int:
    """Bytes of a bucket; on a CPU a page that nothing was written to takes no memory."""
    used = min(buckets.reduce, size.num_parameters) if setting.on_cpu else buckets.reduce
    return used * setting.weight_bytes


def _share(count: int, ranks: int) -> int:
    return -(-count // ranks)


def _add(*parts: Parts) -> Parts:
    return {name: sum(it.get(name, 0) for it in parts) for name in PARTS}
