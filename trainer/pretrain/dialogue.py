"""The dialogue teacher: a language model fitted by Eq. 5, then frozen.

It is the student's own training with gamma = 0, so it runs through the same loop and engine, alone
or under the `deepspeed` launcher. With action tokens its card lists how it read them: whoever asks
it gives them as it learnt them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from protos.teacher_pb2 import Description
from trainer.checkpoints.provenance import check_same_run
from trainer.common.errors import InputError
from trainer.config.run import RunConfig
from trainer.data.prepared import PreparedData, load_prepared
from trainer.engine.ranks import on_first_rank, start_distributed, stop_distributed
from trainer.export import actions_of, resolve_num_steps, train_and_export
from trainer.models.causal_reading import check_pretrained
from trainer.models.frozen import write_card
from trainer.models.language_model import LanguageModel


def fit_dialogue(config: RunConfig, output: Path) -> None:
    """Fit on gold tokens alone and freeze the model in `output`; `config.output` holds the run."""
    if config.distill.gamma != 0:
        raise InputError(
            "a dialogue teacher must be fitted with distill.gamma 0, got "
            f"{config.distill.gamma}. Change it in the config."
        )
    data = load_prepared(Path(config.data))
    config = resolve_num_steps(config, data)
    if config.student.pretrained is not None:
        check_pretrained(config.student.pretrained, check_weights=False)
    if config.train.resume:
        check_same_run(Path(config.output), config)
    start_distributed()
    try:
        done = train_and_export(config, data, None, output)
        on_first_rank(lambda: write_dialogue_card(output, done.model, data, actions_of(config)))
    finally:
        stop_distributed()


def write_dialogue_card(
    folder: Path, model: LanguageModel, data: PreparedData, actions: Sequence[str] = ()
) -> None:
    """Make an exported language model a frozen dialogue teacher.

    `actions` is how it read action tokens, by the names of its form.
    """
    limits = model.limits
    num_entities, num_words = model.knowledge_size
    card = Description(
        kind="dialogue",
        vocabulary_digest=data.vocabulary.digest,
        max_tokens=limits.max_tokens,
        max_entities=limits.max_entities,
        max_words=limits.max_words,
        num_entities=num_entities,
        num_words=num_words,
        graph_digest=data.graphs_digest if num_entities else "",
        capabilities=actions,
    )
    write_card(folder, card)
