"""The tokenizer of the base tokens: found by name or folder, and checked."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A fast tokenizer by the name of a model on the hub, or from a folder on disk.

    A folder may hold tokenizer.json, or only GPT-2's vocab.json and merges.txt.

    Raises:
        ValueError: if there is none, or none that works without the network where that is missing.
    """
    folder = Path(name)
    bare = (folder / "vocab.json").is_file() and not any(
        (folder / known).is_file() for known in ("config.json", "tokenizer_config.json")
    )
    # AutoTokenizer cannot tell the kind of a folder that holds vocab.json and merges.txt alone.
    kind = GPT2Tokenizer if bare else AutoTokenizer
    try:
        tokenizer = kind.from_pretrained(name, local_files_only=folder.is_dir())
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"tokenizer must be a folder or a Hugging Face model, got {name}: {reason} "
            "Give a folder with a tokenizer (--tokenizer DIR)."
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"tokenizer must have a fast version, got {type(tokenizer).__name__} from {name}."
        )
    return tokenizer


def end_of_text_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The id of eos_token, else of <|endoftext|>; ValueError if there is neither."""
    eos_id = tokenizer.eos_token_id
    if isinstance(eos_id, int):
        return eos_id
    eos_id = tokenizer.get_vocab().get(END_OF_TEXT)
    if eos_id is None:
        raise ValueError(
            f"tokenizer must have an end-of-text token, got neither eos_token nor {END_OF_TEXT}. "
            "Set eos_token in tokenizer_config.json."
        )
    return eos_id


def check_base_size(tokenizer: PreTrainedTokenizerFast, base_size: int) -> None:
    """Raise ValueError unless the tokenizer has exactly the ids 0..base_size - 1."""
    ids = tokenizer.get_vocab().values()
    if len(tokenizer) != base_size or max(ids, default=-1) != base_size - 1:
        raise ValueError(
            f"tokenizer must have the ids 0..{base_size - 1}, got {len(tokenizer)} tokens with "
            f"largest id {max(ids, default=-1)}. Use a tokenizer without gaps, or prepare again."
        )
