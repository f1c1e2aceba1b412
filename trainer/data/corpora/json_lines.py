"""JSON lines as people bring them: other formats are told with the command that converts them."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from trainer.common.errors import InputError

UTF8_MARK = b"\xef\xbb\xbf"
# How a file begins that is no JSON lines: its start, what it is, and how to convert it.
OTHER_FORMATS = (
    ((b"\x1f\x8b",), "a gzip file", "Decompress it: gunzip -c OLD > NEW"),
    (
        (b"\xff\xfe", b"\xfe\xff", b"{\x00", b"\x00{"),
        "UTF-16",
        "Convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW",
    ),
    ((b"[",), "a JSON array", "Write one object a line: jq -c '.[]' OLD > NEW"),
)


def check_format(path: Path | zipfile.Path, first_line: bytes) -> None:
    """Raise InputError if a file that starts with this line is no UTF-8 or no JSON lines."""
    start = first_line.removeprefix(UTF8_MARK).lstrip(b" \t")
    for starts, what, remedy in OTHER_FORMATS:
        if start.startswith(starts):
            raise InputError(
                f"{path} must be UTF-8 with one JSON object a line, got {what}. {remedy}"
            )
    if start.strip() == b"{":
        raise InputError(
            f"{path} must be UTF-8 with one JSON object a line, got one over several lines. "
            "Write one a line: jq -c . OLD > NEW"
        )


def parse_json(line: bytes, repeated: list[str]) -> dict[str, Any]:
    """The object of a line; keys that an object gives twice are added to `repeated`.

    Raises:
        InputError: if the line is no UTF-8, no JSON or no object.
    """

    def to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            repeated.extend(key for key, count in counts.items() if count > 1)
        return content

    try:
        record = json.loads(line, object_pairs_hook=to_object)
    except UnicodeDecodeError as error:
        raise InputError(
            f"the line must be UTF-8, got byte {error.object[error.start]:#04x} at {error.start}. "
            "Convert the file, from Latin-1 for example: iconv -f LATIN1 -t UTF-8 OLD > NEW"
        ) from error
    except json.JSONDecodeError as error:
        # A blank line feed at the end would put the column on a line of its own.
        column = min(error.pos, len(line.rstrip())) + 1
        raise InputError(
            f"the line must be one JSON object, got {error.msg} at column {column}. "
            "Correct or remove the line."
        ) from error
    except (ValueError, RecursionError) as error:
        what = "objects in each other too deep" if isinstance(error, RecursionError) else str(error)
        raise InputError(
            f"the line must be one JSON object, got {what}. Correct or remove the line."
        ) from error
    if not isinstance(record, dict):
        raise InputError(
            f"the line must be one JSON object, got a {type(record).__name__}. "
            "Correct or remove the line."
        )
    return record


def check_unicode(what: str, text: str) -> str:
    """The text; InputError if it cannot be written, because it has half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} must be Unicode, got half a surrogate pair at {error.start}. "
            "Correct or remove the line."
        ) from error
    return text
