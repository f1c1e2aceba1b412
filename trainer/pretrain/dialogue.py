"""The dialogue teacher: a causal LM fitted by Eq. 5, then frozen.

It is the student's own training with gamma = 0 and no action tokens, so it runs through the same
loop and engine, alone or under the `deepspeed` launcher.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig

from protos.fingerprint import digest_file
from trainer.checkpoint import check_same_run
from trainer.config import RunConfig
from trainer.data.prepare import load_prepared
from trainer.engine import start_distributed, stop_distributed
from trainer.export import train_and_export
from trainer.models.frozen import WEIGHTS_NAME, FrozenCard, write_card


def fit_dialogue(config: RunConfig, output: Path) -> None:
    """Fit on gold tokens alone and freeze the model in `output`; `config.output` holds the run."""
    if config.distill.gamma != 0 or config.action_tokens:
        raise ValueError(
            "a dialogue teacher must be fitted with distill.gamma 0 and action_tokens false, got "
            f"{config.distill.gamma} and {config.action_tokens}. Change them in the config."
        )
    data = load_prepared(Path(config.data))
    if config.train.resume:
        check_same_run(Path(config.output), config)
    rank, world_size = start_distributed()
    try:
        train_and_export(config, data, None, output, rank=rank, world_size=world_size)
    finally:
        stop_distributed()
    if rank == 0:
        write_dialogue_card(output, data.vocabulary.digest)


def write_dialogue_card(folder: Path, vocabulary_digest: str) -> None:
    """Make an exported language model a frozen dialogue teacher."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    card = FrozenCard(
        kind="dialogue",
        vocabulary_digest=vocabulary_digest,
        weights_digest=digest_file(folder / WEIGHTS_NAME),
        max_input_length=int(config.max_position_embeddings),
    )
    write_card(folder, card)
