"""One vocabulary for words and items: base tokens, then one token per movie, then three more.

Token ids: [0, base_size) base tokens of the tokenizer; [base_size, base_size + num_items) items in
the order of movie_ids; then [REC], [GEN] and <pad>. Students and teachers share it: its digest is
compared in the handshake.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from protos.fingerprint import digest_strings
from trainer.common.atomic import write_json
from trainer.common.errors import InputError, MissingError
from trainer.common.text_files import read_json_object
from trainer.data.dialogue import Mention, Piece
from trainer.data.text_form import check_spaces, continuing, form_digest, rules_digest
from trainer.data.tokenizer import check_base_size, end_of_text_id, load_tokenizer

VOCABULARY_NAME = "vocabulary.json"
TOKENIZER_NAME = "tokenizer"
FORMAT_VERSION = 3
REMEDY = "Prepare the data again, or export the model again."
AT_NUMBER = re.compile("@(?=[0-9])")
NUM_SPECIAL = 3
"""[REC], [GEN] and <pad>, in this order after the items."""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


KEYS: Mapping[str, Callable[[object], bool]] = {
    "format_version": _is_count,
    "base_size": _is_count,
    "eos_id": _is_count,
    "digest": lambda value: isinstance(value, str),
    "movie_ids": _are_texts,
    "titles": _are_texts,
}
"""Keys of vocabulary.json -> whether a value can be theirs."""


@dataclass(frozen=True)
class Vocabulary:
    """Words, items and the special tokens, with their ids."""

    tokenizer: PreTrainedTokenizerFast
    base_size: int
    eos_id: int
    movie_ids: tuple[str, ...]
    """ReDial's movie ids, ascending as numbers; item i is movie_ids[i]."""
    titles: tuple[str, ...]
    """"Title (Year)" of each item."""

    def __post_init__(self) -> None:
        if len(self.titles) != len(self.movie_ids):
            raise InputError(
                f"titles must be one per movie, got {len(self.titles)} for {len(self.movie_ids)}."
            )
        if list(self.movie_ids) != sorted(set(self.movie_ids), key=_movie_number):
            raise InputError("movie_ids must be distinct and ascending as numbers. Sort them.")
        if not 0 <= self.eos_id < self.base_size:
            raise InputError(f"eos_id must be in [0, {self.base_size}), got {self.eos_id}.")

    @property
    def num_items(self) -> int:
        """Movies, each with one token."""
        return len(self.movie_ids)

    @property
    def first_item_id(self) -> int:
        """Token id of item 0."""
        return self.base_size

    @property
    def rec_id(self) -> int:
        """Token id of [REC]: the turn recommends."""
        return self.base_size + self.num_items

    @property
    def gen_id(self) -> int:
        """Token id of [GEN]: the turn only converses."""
        return self.rec_id + 1

    @property
    def pad_id(self) -> int:
        """Token id of <pad>."""
        return self.rec_id + 2

    @property
    def size(self) -> int:
        """Rows of an embedding over this vocabulary."""
        return self.base_size + self.num_items + NUM_SPECIAL

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of the format, how text becomes tokens, and the movie ids.

        The format is in it because it decides how text becomes tokens, too.
        """
        form = f"format {FORMAT_VERSION}, end of text {self.eos_id}, base size {self.base_size}"
        return digest_strings([form, form_digest(self.tokenizer)], self.movie_ids)

    @cached_property
    def catalogue_digest(self) -> str:
        """Hex SHA-256 of the movie ids in their order; a part of `digest`."""
        return digest_strings(self.movie_ids)

    @cached_property
    def text_digest(self) -> str:
        """Hex SHA-256 of the format and the text rules, without the tokens; a part of `digest`."""
        return digest_strings([f"format {FORMAT_VERSION}", rules_digest(self.tokenizer)])

    @cached_property
    def _continuing(self) -> PreTrainedTokenizerFast:
        """Of text after an item."""
        return continuing(self.tokenizer)

    @cached_property
    def _index_by_movie(self) -> dict[str, int]:
        return {movie_id: index for index, movie_id in enumerate(self.movie_ids)}

    def item_index(self, movie_id: str) -> int:
        """Index of a movie in [0, num_items); ValueError if it is not in the catalogue."""
        index = self._index_by_movie.get(movie_id)
        if index is None:
            raise InputError(f"movie id must be in the catalogue, got {movie_id}.")
        return index

    def item_token(self, item_index: int) -> int:
        """Token id of an item; ValueError if the index is out of range."""
        if not 0 <= item_index < self.num_items:
            raise InputError(f"item index must be in [0, {self.num_items}), got {item_index}.")
        return self.base_size + item_index

    def is_item(self, token_id: int) -> bool:
        """Whether the token stands for a movie."""
        return self.base_size <= token_id < self.rec_id

    def encode(self, pieces: Sequence[Piece]) -> list[int]:
        """Token ids of text pieces and mentions, without special tokens.

        White space before a mention becomes the token of a single space, as with a tokenizer that
        has movies as added tokens: at this token a model decides between a movie and any word, and
        one step later between the movies. Without it the likeliest movie still loses to "it", and
        greedy responses name none. Text that spells a special token ("<|endoftext|>") stays text.
        After a mention " is" and "is" have different tokens, also where the tokenizer puts a space
        in front of every text.
        """
        return self.encode_batch([pieces])[0]

    def encode_batch(self, batch: Iterable[Sequence[Piece]]) -> list[list[int]]:
        """`encode` of many, with one call of the tokenizer for all of them."""
        runs = [_runs(pieces) for pieces in batch]
        first = [run for pieces in runs for run in pieces[:1] if isinstance(run, str)]
        later = [run for pieces in runs for run in pieces[1:] if isinstance(run, str)]
        first_ids = iter(_encode_texts(self.tokenizer, first))
        later_ids = iter(_encode_texts(self._continuing, later))
        return [
            [
                token_id
                for index, run in enumerate(pieces)
                for token_id in (
                    next(later_ids if index else first_ids)
                    if isinstance(run, str)
                    else [self.item_token(self.item_index(run.movie_id))]
                )
            ]
            for pieces in runs
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """Readable text: items as "Title (Year)"; end of text, [REC], [GEN], <pad> left out."""
        return self._decode(ids, lambda item: self.titles[item], lambda text, _: text)

    def decode_with_ids(self, ids: Sequence[int]) -> str:
        """As `decode`, but an item is "@<movie id>", and nothing else in the text is @ and digits.

        A space keeps a number apart from an @ or an item before it.
        """
        return self._decode(ids, lambda item: f"@{self.movie_ids[item]}", _apart)

    def _decode(
        self, ids: Sequence[int], name: Callable[[int], str], mend: Callable[[str, bool], str]
    ) -> str:
        """Text with items by name; `mend` gets each text between, and whether an item is before."""
        outside = [token_id for token_id in ids if not 0 <= token_id < self.size]
        if outside:
            raise InputError(f"token ids must be in [0, {self.size}), got {outside[0]}.")
        kept = [int(token_id) for token_id in ids if token_id < self.rec_id]
        text = ""
        for are_items, group in groupby((i for i in kept if i != self.eos_id), self.is_item):
            if are_items:
                for token_id in group:
                    # A model may leave the space out.
                    glued = text[-1:].isalnum() or text[-1:] in tuple("),.!?:;")
                    text += f"{' ' * glued}{name(token_id - self.base_size)}"
            else:
                tokenizer = self._continuing if text else self.tokenizer
                text += mend(_decode_texts(tokenizer, list(group)), bool(text))
        return text

    def save(self, folder: Path) -> None:
        """Write vocabulary.json and tokenizer/; the JSON comes last, so that it marks a whole."""
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / TOKENIZER_NAME
        target.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".tokenizer.") as temporary:
            self.tokenizer.save_pretrained(temporary)
            for path in Path(temporary).iterdir():
                path.replace(target / path.name)
        content = {
            "format_version": FORMAT_VERSION,
            "base_size": self.base_size,
            "eos_id": self.eos_id,
            "size": self.size,
            "digest": self.digest,
            "movie_ids": self.movie_ids,
            "titles": self.titles,
        }
        write_json(folder / VOCABULARY_NAME, content)

    @staticmethod
    def load(folder: Path) -> Vocabulary:
        """The vocabulary saved in a folder; ValueError if its digest does not match."""
        path = folder / VOCABULARY_NAME
        if not path.is_file():
            raise MissingError(
                f"{folder} must hold {VOCABULARY_NAME}, got none. Make it with: "
                "python -m trainer.data prepare"
            )
        content = _read_saved(path)
        if not (folder / TOKENIZER_NAME).is_dir():
            raise MissingError(f"{folder} must hold {TOKENIZER_NAME}/, got none. {REMEDY}")
        vocabulary = Vocabulary(
            tokenizer=load_tokenizer(str(folder / TOKENIZER_NAME)),
            base_size=content["base_size"],
            eos_id=content["eos_id"],
            movie_ids=tuple(content["movie_ids"]),
            titles=tuple(content["titles"]),
        )
        check_base_size(vocabulary.tokenizer, vocabulary.base_size)
        if vocabulary.digest != content["digest"]:
            raise InputError(
                f"{path} must have digest {content['digest']}, got {vocabulary.digest}. The "
                "tokenizer or the items were changed; prepare the data again."
            )
        return vocabulary


def build_vocabulary(tokenizer: PreTrainedTokenizerFast, titles: Mapping[str, str]) -> Vocabulary:
    """The joint vocabulary of a tokenizer and a catalogue (movie id -> title).

    Raises:
        InputError: if a movie id is not a number, or the tokenizer has no end-of-text token, ids
            with gaps, or loses spaces.
    """
    movie_ids = tuple(sorted(titles, key=_movie_number))
    check_tokenizer(tokenizer)
    return Vocabulary(
        tokenizer=tokenizer,
        base_size=len(tokenizer),
        eos_id=end_of_text_id(tokenizer),
        movie_ids=movie_ids,
        titles=tuple(titles[movie_id] for movie_id in movie_ids),
    )


def check_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise InputError unless a vocabulary can be built on it."""
    check_base_size(tokenizer, len(tokenizer))
    end_of_text_id(tokenizer)
    check_spaces(continuing(tokenizer))


def _encode_texts(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    # verbose=False: the model's length limit is enforced later, on the whole context.
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)
    return encoded["input_ids"]


def _decode_texts(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def _apart(text: str, follows_item: bool) -> str:
    """A text in which no number stands right behind an @, or behind the item before the text."""
    is_glued = follows_item and text[:1].isascii() and text[:1].isdigit()
    return f"{' ' * is_glued}{AT_NUMBER.sub('@ ', text)}"


def _runs(pieces: Sequence[Piece]) -> list[Piece]:
    """Neighbouring texts joined, white space before mentions one space, no empty text."""
    runs: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and runs and isinstance(runs[-1], str):
            runs[-1] += piece
        else:
            if isinstance(piece, Mention) and runs and isinstance(runs[-1], str):
                text = runs[-1].rstrip()
                runs[-1] = text if text == runs[-1] else f"{text} "
            runs.append(piece)
    return [run for run in runs if run != ""]


def _movie_number(movie_id: str) -> int:
    if not (movie_id.isascii() and movie_id.isdigit()):
        raise InputError(f"movie id must be a number, got {movie_id!r}.")
    return int(movie_id)


def _read_saved(path: Path) -> dict[str, Any]:
    content = read_json_object(path, remedy=REMEDY)
    version = content.get("format_version")
    missing = sorted(key for key in KEYS if key not in content)
    if missing or version != FORMAT_VERSION:
        raise InputError(
            f"{path} must have format_version {FORMAT_VERSION} and all keys, got {version} without "
            f"{missing}. Prepare the data again, and fit the model again on them if this is a "
            "model's folder."
        )
    for key, is_valid in KEYS.items():
        if not is_valid(content[key]):
            raise InputError(
                f"{key} in {path} must be as `python -m trainer.data prepare` wrote it, got "
                f"{str(content[key])[:60]}. {REMEDY}"
            )
    return content
