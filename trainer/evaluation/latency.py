"""Seconds for each token of a response, as a person waits for it: one response at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from trainer.common.progress import progress_bar
from trainer.data.message_contexts import MessageContext
from trainer.evaluation.generate import GenerateConfig, generate_batch
from trainer.evaluation.responders import SpeakingResponder

WARM_UP = 20
MEASURED = 200


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Over the measured responses, of each its seconds over its generated tokens."""

    median_ms: float
    p90_ms: float


def measure_latency(
    responder: SpeakingResponder, contexts: Sequence[MessageContext]
) -> Latency | None:
    """Of the first 200 responses behind 20 that are not measured; None if there are no more.

    Prompts are made, and action tokens chosen, outside the measured time: it is of the prompt's
    forward and of every token, the end of text included.
    """
    chosen = contexts[: WARM_UP + MEASURED]
    if len(chosen) <= WARM_UP:
        return None
    prompts = responder.prompts(chosen)
    config = GenerateConfig(
        max_new_tokens=responder.config.max_new_tokens,
        batch_size=1,
        decoding=responder.config.decoding,
    )
    loaded = responder.loaded
    ms: list[float] = []
    with progress_bar() as bar:
        for prompt in bar.track(prompts, description="latency"):
            _wait_for_device()
            started = perf_counter()
            (response,) = generate_batch(loaded.model, loaded.vocabulary, [prompt], config)
            _wait_for_device()
            ms.append(1e3 * (perf_counter() - started) / response.num_steps)
    return summarised(ms[WARM_UP:])


def summarised(ms: Sequence[float]) -> Latency:
    """Median and 90th percentile."""
    median, p90 = np.percentile(ms, [50, 90]).tolist()
    return Latency(median_ms=median, p90_ms=p90)


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
