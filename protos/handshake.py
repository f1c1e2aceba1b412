"""The metadata of a Score stream, in which a caller names the teacher that it expects.

Vocabulary and wire version are required; weights, temperature and dtype are checked where they are
sent. The version is the one that the stream has: the highest that both ends speak.
"""

from __future__ import annotations

from collections.abc import Iterable

from protos import version
from protos.teacher_pb2 import Description

VOCABULARY_DIGEST = "conkd-vocabulary-digest"
WIRE_VERSION = "conkd-wire-version"
WEIGHTS_DIGEST = "conkd-weights-digest"
TEMPERATURE = "conkd-temperature"
DTYPE = "conkd-dtype"
# Both may have gone through a float32 field.
TEMPERATURE_TOLERANCE = 1e-6


def handshake_metadata(expected: Description) -> tuple[tuple[str, str], ...]:
    """The metadata of a stream to this teacher.

    Without a weights digest, a temperature or a dtype, any is accepted. Without a wire version it
    is our newest.
    """
    newest = expected.wire_version or version.WIRE_VERSION
    agreed = version.common_version(expected.oldest_wire_version, newest)
    metadata = [
        (VOCABULARY_DIGEST, expected.vocabulary_digest),
        (WIRE_VERSION, str(agreed)),
    ]
    if expected.weights_digest:
        metadata.append((WEIGHTS_DIGEST, expected.weights_digest))
    if expected.temperature:
        metadata.append((TEMPERATURE, str(expected.temperature)))
    if expected.dtype:
        metadata.append((DTYPE, expected.dtype))
    return tuple(metadata)


def handshake_mismatch(metadata: Iterable[tuple[str, str | bytes]], served: Description) -> str:
    """The first key in which a caller's metadata and the teacher differ, with both values.

    Returns:
        The refusal; empty if all agree.
    """
    sent = {str(key): str(value) for key, value in metadata}
    of = f"for this {served.kind} teacher"
    ours = range(version.OLDEST_WIRE_VERSION, version.WIRE_VERSION + 1)
    asked = sent.get(WIRE_VERSION, "none")
    if asked not in map(str, ours):
        versions = version.versions_text(ours[0], ours[-1])
        return f"{WIRE_VERSION} must be {versions} {of}, got {asked}."
    for key, value, is_required in (
        (VOCABULARY_DIGEST, served.vocabulary_digest, True),
        (WEIGHTS_DIGEST, served.weights_digest, False),
        (DTYPE, served.dtype, False),
    ):
        got = sent.get(key)
        if got is None and is_required:
            return f"{key} must be {value} {of}, got none."
        if got not in (None, value):
            return f"{key} must be {value} {of}, got {got}."
    temperature = sent.get(TEMPERATURE)
    if temperature is not None and not _is_close(temperature, served.temperature):
        return f"{TEMPERATURE} must be {served.temperature} {of}, got {temperature}."
    return ""


def _is_close(text: str, number: float) -> bool:
    try:
        return abs(float(text) - number) <= TEMPERATURE_TOLERANCE * abs(number)
    except ValueError:
        return False
