"""The story of a run: batches in, targets from the teachers, one loss, one step, metrics out.

for every step:
    ask the teachers about the batch that comes `in_flight` steps later
    wait for the targets of this batch (they should have arrived long ago)
    mix them with the gold tokens (conkd), run student and loss (sparse_ce), step (engine)
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from trainer.checkpoints import policy
from trainer.checkpoints.provenance import (
    CONFIG_NAME,
    RunProvenance,
    check_same_provenance,
    write_provenance,
)
from trainer.common.atomic import write_text
from trainer.common.errors import InputError
from trainer.config.run import RunConfig
from trainer.config.yaml_file import to_yaml
from trainer.data.examples import Example
from trainer.data.model_input import InputLimits
from trainer.data.vocabulary import Vocabulary
from trainer.engine.checkpoints import Checkpoints
from trainer.engine.engine import Engine
from trainer.engine.ranks import on_all_ranks, raise_on_all_ranks
from trainer.lookahead import SubmittedStep, Teachers, submitted_steps
from trainer.loss import conkd
from trainer.loss.conkd import PreparedTargets
from trainer.selection import Selection, forget_best
from trainer.telemetry.client_counters import ClientCounters
from trainer.telemetry.rank_metrics import RankMetrics, RankProgress
from trainer.telemetry.run_log import RunLog
from trainer.telemetry.step_sums import StepSums


def train(
    config: RunConfig,
    engine: Engine,
    checkpoints: Checkpoints,
    *,
    vocabulary: Vocabulary,
    examples: list[Example],
    provenance: RunProvenance,
    limits: InputLimits,
    teachers: Teachers | None,
    selection: Selection | None,
) -> None:
    """Train until `train.steps`, from the newest checkpoint if there is one.

    `limits` are the student's own; `selection` judges each checkpoint and may end the run.

    Raises:
        TeacherUnavailable: after a checkpoint, if a kind of teachers is gone, or was exchanged for
            another one, beyond patience.
        WireError, ValueError: after a checkpoint, if answers are broken or a request was refused;
            ValueError without one if the loss is not finite.
    """
    first_step = _first_step(config, engine, checkpoints, provenance)
    log = on_all_ranks(lambda: _open_log(config, engine, provenance, first_step))
    try:
        if selection is not None:
            selection.restore([] if log is None else log.valid_history, first_step)
        counters = teachers.counters if teachers else None
        steps = submitted_steps(
            config,
            engine,
            vocabulary=vocabulary,
            examples=examples,
            limits=limits,
            teachers=teachers,
            first_step=first_step,
        )
        with (
            on_all_ranks(lambda: RankMetrics(config, engine.rank, counters)) as progress,
            contextlib.closing(steps),
        ):
            _run_steps(
                config,
                engine,
                checkpoints,
                steps,
                teachers=teachers,
                selection=selection,
                log=log,
                progress=progress,
            )
        on_all_ranks(lambda: None if log is None else log.end())
    finally:
        if log is not None:
            log.close()


def _open_log(
    config: RunConfig, engine: Engine, provenance: RunProvenance, first_step: int
) -> RunLog | None:
    """Rank 0: write the run's settings and sources, and open its log."""
    if engine.rank != 0:
        return None
    output = Path(config.output)
    write_text(output / CONFIG_NAME, to_yaml(config))
    write_provenance(output, provenance)
    log = RunLog(output, total_steps=config.train.num_steps, first_step=first_step)
    log.start({"world_size": engine.world_size, "first_step": first_step})
    return log


def _first_step(
    config: RunConfig, engine: Engine, checkpoints: Checkpoints, provenance: RunProvenance
) -> int:
    """Go back to the newest checkpoint, if there is one and it is this run's."""
    output = Path(config.output)
    if not config.train.resume:
        # In this order: a checkpoint without its best model could not be gone on from.
        checkpoints.forget()
        engine.on_first_rank(lambda: forget_best(output))
    engine.on_first_rank(lambda: check_same_provenance(output, provenance))
    first_step = checkpoints.load_newest()
    if first_step > config.train.num_steps:
        raise_on_all_ranks(
            InputError(
                f"train.steps must be at least {first_step}, the step of the checkpoint in "
                f"{output}, got {config.train.num_steps}. Raise it, or start over with "
                "train.resume=false."
            )
        )
    return first_step


def _run_steps(
    config: RunConfig,
    engine: Engine,
    checkpoints: Checkpoints,
    steps: Iterator[SubmittedStep],
    *,
    teachers: Teachers | None,
    selection: Selection | None,
    log: RunLog | None,
    progress: RankProgress,
) -> None:
    counted = ClientCounters()
    # The clock starts before a step's batch is drawn, so collating and asking are part of a step;
    # writing metrics and checkpoints is not.
    started = time.perf_counter()
    for submitted in steps:
        if selection is not None and selection.is_over:
            return
        sums = train_step(config, engine, submitted, checkpoints)
        wire = None
        if teachers is not None:
            now = dataclasses.replace(teachers.counters)
            wire, counted = now.minus(counted), now
        total = sums.over_ranks(engine.sum_over_ranks, engine.world_size, wire)
        raise_on_all_ranks(
            total.find_problem(submitted.step + 1) or engine.find_problem() or _problem_of(log)
        )
        step_s = time.perf_counter() - started
        progress.add(sums, step_s)
        distill = config.distill.at(submitted.step)
        if log is not None:
            log.step(
                total.metrics(
                    step=submitted.step + 1,
                    step_s=step_s,
                    num_examples=config.train.batch_size,
                    learning_rate=engine.learning_rate,
                    grad_norm=engine.grad_norm,
                    loss_scale=engine.loss_scale,
                    was_skipped=engine.was_skipped,
                    gamma=distill.gamma,
                    temperature=distill.temperature,
                )
            )
        done = submitted.step + 1
        if policy.is_due(done, config.train):
            _keep(checkpoints, done, selection, log)
        # Its targets go before the next batch is asked about: `in_flight` bounds what is held.
        del submitted
        started = time.perf_counter()


def _keep(
    checkpoints: Checkpoints, step: int, selection: Selection | None, log: RunLog | None
) -> None:
    """Write the checkpoint of a step, judged on valid before if there is a selection."""
    if selection is not None:
        nll = selection.validate(step)
        if log is not None:
            log.valid(step, nll)
    # What is in a checkpoint's past must be in the log.
    raise_on_all_ranks(_problem_of(log))
    checkpoints.save(step)
    if selection is not None:
        selection.forget_others()


def _problem_of(log: RunLog | None) -> OSError | None:
    return None if log is None else log.problem


def train_step(
    config: RunConfig,
    engine: Engine,
    submitted: SubmittedStep,
    checkpoints: Checkpoints | None = None,
) -> StepSums:
    """One optimiser step; what this rank counted in it.

    If targets do not come, the steps done are saved first; without `checkpoints` they are not.
    """
    # Dropout of a step depends on (seed, step, rank) alone: a resumed run repeats it exactly.
    torch.manual_seed(hash((config.seed, submitted.step, engine.rank)) % (1 << 63))
    sums = StepSums.zero(engine.device)
    started = time.perf_counter()
    targets = _wait_for_targets(engine, submitted, checkpoints)
    wait_s = time.perf_counter() - started
    for inputs, prepared in zip(submitted.inputs, targets, strict=True):
        loss_sum, nll_P, closeness_KS = engine.forward(inputs.model, prepared.soft)
        # Every response counts alike (Eq. 5's 1/T is in the targets' weights), and every global
        # batch has batch_size of them.
        engine.backward(loss_sum, config.train.batch_size)
        sums += StepSums.of_micro_batch(
            inputs,
            prepared,
            loss_sum=loss_sum,
            nll_P=nll_P,
            closeness_KS=closeness_KS,
            wait_s=wait_s,
        )
        wait_s = 0.0
    return sums


def _wait_for_targets(
    engine: Engine, submitted: SubmittedStep, checkpoints: Checkpoints | None
) -> list[PreparedTargets]:
    """The targets of all micro-batches, before any forward.

    If a rank's targets will not come (teachers gone or exchanged for good, two broken answers),
    all ranks checkpoint the steps done and leave.
    """
    if not submitted.pending:
        gold = [conkd.hard_targets(inputs.positions) for inputs in submitted.inputs]
        return [PreparedTargets(soft=soft, statistics=None) for soft in gold]
    prepared: list[PreparedTargets] = []
    problem = None
    try:
        prepared = [pending.result() for pending in submitted.pending]
    except Exception as error:  # whatever it is: the other ranks wait
        problem = error
    (num_failed,) = engine.sum_over_ranks([problem is not None])
    if num_failed:
        if checkpoints and policy.is_due_on_error(submitted.step, checkpoints.newest_step()):
            checkpoints.save(submitted.step)
        raise_on_all_ranks(problem)
    return prepared
