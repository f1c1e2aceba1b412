"""Text as people wrote it, from text as a web page kept it."""

from __future__ import annotations

import html
import re
from html.entities import html5

# With the semicolon alone: "AT&T" and "R&B" are no entities.
ENTITY_PATTERN = re.compile(r"&(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]*);")
# From the first of the white space alone: from each in turn it takes the square of their number.
BREAK_PATTERN = re.compile(r"(?<!\s)\s*[\r\n]\s*")


def clean_text(text: str) -> str:
    """HTML entities as the letters that they stand for ("Tom &amp; Jerry"), on one line."""
    return BREAK_PATTERN.sub(" ", ENTITY_PATTERN.sub(_letters, text))


def _letters(entity: re.Match[str]) -> str:
    name = entity.group(1)
    # `unescape` takes the start of a name that it does not know for one: "&notit;" is no "\u00ac".
    is_known = name.startswith("#") or f"{name};" in html5
    return html.unescape(entity.group()) if is_known else entity.group()
