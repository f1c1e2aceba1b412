from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.common.errors import InputError, MissingError
from trainer.common.text_files import read_json, read_json_object, read_text


def test_text_is_read_without_its_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbf" + "né\r\n".encode())
    assert read_text(path) == "né\r\n"


@pytest.mark.parametrize("value", [[1], {"a": [1.5, None]}, "text", 3])
def test_json_of_any_sort_is_read(value: object, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(value))
    assert read_json(path) == value


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff\xfe{}", "UTF-8 text, got byte 0xff at 0"),
        (b'{"a": "\xe9"}', "UTF-8 text, got byte 0xe9 at 7"),
        (b"\x1f\x8b\x08\x00", "UTF-8 text, got byte 0x8b at 1"),
        (b"", "JSON, got: Expecting value"),
        (b'{"a": 1', "JSON, got: "),
        (b"{} {}", "JSON, got: Extra data"),
        (b"[" * 200_000, "JSON of reasonable depth"),
        (b'{"a":' * 200_000, "JSON of reasonable depth"),
        (b'{"a": ' + b"1" * 5000 + b"}", "JSON, got: Exceeds the limit"),
        (b"[]", "hold a JSON object, got a list"),
        (b'"text"', "hold a JSON object, got a string"),
        (b"null", "hold a JSON object, got null"),
        (b"true", "hold a JSON object, got a truth value"),
        (b"1.5", "hold a JSON object, got a number"),
    ],
)
def test_what_is_no_json_object_is_one_error_with_the_file_and_the_remedy(
    content: bytes, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_json_object(path, remedy="Export it again.")
    message = str(caught.value)
    assert message.startswith(f"{path} must ")
    assert problem in message
    assert message.endswith(" Export it again.")
    assert "\n" not in message


def test_missing_file_is_an_error_of_its_own(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(MissingError, match="must be a file, got none there"):
            read_json_object(path)
