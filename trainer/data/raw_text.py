"""Text as people wrote it, from text as a web page kept it."""

from __future__ import annotations

import html
import re

# With the semicolon alone: "AT&T" and "R&B" are no entities.
ENTITY_PATTERN = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]*);")
BREAK_PATTERN = re.compile(r"\s*[\r\n]\s*")


def clean_text(text: str) -> str:
    """HTML entities as the letters that they stand for ("Tom &amp; Jerry"), on one line."""
    unescaped = ENTITY_PATTERN.sub(lambda match: html.unescape(match.group()), text)
    return BREAK_PATTERN.sub(" ", unescaped)
