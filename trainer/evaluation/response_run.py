"""A system answers the recommender messages of a split, into a file of records with its card."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from trainer.common.atomic import write_json
from trainer.common.errors import InputError
from trainer.data.message_contexts import MessageContext, message_contexts
from trainer.data.prepared import PreparedData, load_prepared
from trainer.evaluation.answering import answer, first_dialogues, message_batches
from trainer.evaluation.decoding import Decoding
from trainer.evaluation.generate import GenerateConfig
from trainer.evaluation.latency import WARM_UP, measure_latency
from trainer.evaluation.machine_facts import machine_text
from trainer.evaluation.responders import Responder, SpeakingResponder, load_responder
from trainer.evaluation.response_parts import PLAN_KEY, Plan, ResponseParts
from trainer.evaluation.shards import Shard
from trainer.models.student_card import MODEL_FOLDER
from trainer.scoring.card import SystemCard, card_path, read_system_card


@dataclass(frozen=True, kw_only=True)
class RespondConfig:
    """Which system answers which messages, and how."""

    checkpoint: Path
    data: Path
    output: Path
    split: str = "test"
    classifier: str | None = None
    """Folder of a turn classifier, "oracle", "student" or None, as EvaluateConfig has it."""
    limit: int | None = None
    """Only the first dialogues; None: all."""
    latency: bool = False
    generate: GenerateConfig = field(default_factory=GenerateConfig)


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """What is to be done, all of it checked."""

    config: RespondConfig
    data: PreparedData
    responder: Responder
    contexts: tuple[MessageContext, ...]
    parts: ResponseParts


def respond_config(arguments: argparse.Namespace) -> RespondConfig:
    """The config that these options ask for."""
    drawn = {"top_p": arguments.top_p, "seed": arguments.seed}
    given = {name: value for name, value in drawn.items() if value is not None}
    decoding = dataclasses.replace(Decoding(method=arguments.decoding), **given)
    return RespondConfig(
        checkpoint=arguments.checkpoint,
        data=arguments.data,
        output=arguments.output,
        split=arguments.split,
        classifier=arguments.classifier,
        limit=arguments.limit,
        latency=arguments.latency,
        generate=GenerateConfig(batch_size=arguments.batch_size, decoding=decoding),
    )


def checked_work(config: RespondConfig, local_rank: int) -> Work:
    """Load everything, and raise for whatever is wrong with it.

    Args:
        local_rank: of this process on its machine: which of the GPUs is its own.

    Raises:
        MissingError: if a folder or file is missing.
        InputError: if model and data do not go together, or the file is of another system.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    # Hugging Face's bar for the reading of weights is noise in logs.
    disable_progress_bar()
    data = load_prepared(config.data)
    responder = load_responder(config.checkpoint, data, config.generate, config.classifier)
    if config.latency and not isinstance(responder, SpeakingResponder):
        raise InputError(
            f"--latency must be of a system that generates, got {config.checkpoint}, which only "
            "ranks. Leave it out."
        )
    contexts = first_dialogues(message_contexts(data, config.split), config.limit)
    responder.check(contexts)
    parts = ResponseParts(
        output=config.output,
        plan=_plan(config, data, responder, len(contexts)),
        batches=message_batches(contexts, config.generate.batch_size),
    )
    parts.is_whole()
    return Work(
        config=config, data=data, responder=responder, contexts=tuple(contexts), parts=parts
    )


def respond_to_file(work: Work, shard: Shard) -> str:
    """Do this process's share, join the file if it was the last one, and say how it stands."""
    parts = work.parts
    if not parts.open():
        mine = [n for n in parts.missing() if n % shard.count == shard.index]
        title = "respond" if shard.count == 1 else f"respond {shard.index}/{shard.count}"
        for done in answer(work.responder, work.contexts, parts.batches, mine, title=title):
            parts.write(done.batch, done.records, done.seconds)
        missing = parts.missing()
        if missing and not parts.is_whole():
            return f"{len(missing)} of {len(parts.batches)} batches are left to other shares"
        _finish(work)
    if work.config.latency:
        _add_latency(work)
    return str(parts.output)


def _finish(work: Work) -> None:
    """Join the parts, write the card, and remove them; nothing if another process has done so."""
    seconds = work.parts.join()
    if seconds is None:
        return
    config, data = work.config, work.data
    card = SystemCard(
        system=_name(config.checkpoint.resolve()),
        checkpoint_digest=work.responder.digest,
        vocabulary_digest=data.vocabulary.digest,
        data_digest=data.manifest.dialogue_digests[config.split],
        split=config.split,
        decoding=config.generate.decoding.text,
        machine=machine_text(),
        seconds=seconds,
    )
    _write_card(work.parts, card)
    work.parts.remove()


def _name(checkpoint: Path) -> str:
    """The folder's name; that of a run for its exported student."""
    return checkpoint.parent.name if checkpoint.name == MODEL_FOLDER else checkpoint.name


def _add_latency(work: Work) -> None:
    assert isinstance(work.responder, SpeakingResponder)
    latency = measure_latency(work.responder, work.contexts)
    if latency is None:
        raise InputError(
            f"--latency must be measured over more than {WARM_UP} responses, got "
            f"{len(work.contexts)}. Leave it out, or raise --limit."
        )
    card = dataclasses.replace(
        read_system_card(work.parts.output),
        latency_ms_median=latency.median_ms,
        latency_ms_p90=latency.p90_ms,
    )
    _write_card(work.parts, card)


def _write_card(parts: ResponseParts, card: SystemCard) -> None:
    content = {**dataclasses.asdict(card), PLAN_KEY: parts.plan}
    write_json(card_path(parts.output), content)


def _plan(config: RespondConfig, data: PreparedData, responder: Responder, messages: int) -> Plan:
    """All that decides a record, but for what float rounding does on another machine."""
    return {
        "checkpoint": responder.digest,
        "vocabulary": data.vocabulary.digest,
        "graphs": data.graphs_digest,
        "dialogues": data.manifest.dialogue_digests[config.split],
        "prepared": dataclasses.asdict(data.manifest.options),
        "split": config.split,
        "messages": messages,
        "decoding": config.generate.decoding.text,
        "max_new_tokens": config.generate.max_new_tokens,
        "batch_size": config.generate.batch_size,
    }
