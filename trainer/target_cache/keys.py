"""Keys of cached answers: one per request to a teacher about one example.

A key is a digest of everything that the answer depends on: the wire's version, the teacher, the
temperature, the cut and the example's own columns as they are sent. Per example, because batches
are shuffled anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from protos import teacher_pb2, version
from protos.fingerprint import digest_strings
from trainer.common.errors import InputError
from trainer.data.model_input import InputLimits, SequenceInput

WHOLE_NUMBERS = (
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_ENUM,
)
GROUP_BYTES = 8
KEY_BYTES = GROUP_BYTES + hashlib.sha256().digest_size


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """One teacher and one way of cutting its rows: what all keys of a run and kind share."""

    description: teacher_pb2.Description
    compression: teacher_pb2.Compression
    temperature: float = 1.0
    """That was asked for, as float32 has it; the teacher's own is in the Description."""

    @property
    def digest(self) -> str:
        """Digest of all but the input that an answer depends on, the wire's version included.

        And of the limits of the input: a group has one record, which must be that of all its keys.
        """
        described = self.description
        return digest_strings(
            [
                str(described.wire_version),
                described.kind,
                described.vocabulary_digest,
                str(described.vocab_size),
                described.graph_digest,
                described.weights_digest,
                described.dtype,
                _float_hex(described.temperature),
                # A student without teachers asks within the limits that the record gives.
                *(str(it) for it in (described.max_tokens, described.max_entities)),
                str(described.max_words),
                field_bytes(self.compression).hex(),
                *([] if self.temperature == 1.0 else [_float_hex(self.temperature)]),
            ]
        )

    @property
    def group_id(self) -> bytes:
        """First bytes of all keys of the group, so that its entries lie together."""
        return bytes.fromhex(self.digest)[:GROUP_BYTES]

    @property
    def limits(self) -> InputLimits:
        """Limits of the teacher's input per example."""
        return InputLimits.of(self.description)

    @classmethod
    def of(
        cls,
        described: teacher_pb2.Description,
        compression: teacher_pb2.Compression,
        *,
        temperature: float = 1.0,
    ) -> Group:
        """The group of a replica's Description; all replicas of one teacher have the same."""
        description = teacher_pb2.Description()
        description.CopyFrom(described)
        description.replica_id = ""
        # Blocks are stored as this release writes them, whatever version their stream had.
        description.wire_version = version.WIRE_VERSION
        description.oldest_wire_version = 0
        return cls(
            description=description,
            compression=compression,
            temperature=float(np.float32(temperature)),
        )

    def to_json(self) -> str:
        """The group as its stored record."""
        messages = {"description": self.description, "compression": self.compression}
        record: dict[str, Any] = {
            name: json_format.MessageToDict(message) for name, message in messages.items()
        }
        if self.temperature != 1.0:
            record["temperature"] = self.temperature
        return json.dumps(record, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, group_id: bytes | None = None) -> Group:
        """The group of a stored record.

        Raises:
            InputError: if the record is malformed, or not that of `group_id`, if given.
        """
        try:
            record = json.loads(text)
            description, compression = record["description"], record["compression"]
            group = cls(
                # A later release of the same wire version may add fields; the id tells the rest.
                description=json_format.ParseDict(
                    description, teacher_pb2.Description(), ignore_unknown_fields=True
                ),
                compression=json_format.ParseDict(compression, teacher_pb2.Compression()),
                temperature=float(np.float32(record.get("temperature", 1.0))),
            )
        except (ValueError, json_format.ParseError, KeyError, TypeError) as error:
            raise InputError(
                f"the record of a group must be a Description and a Compression, got: {error}."
            ) from error
        if group_id not in (None, group.group_id):
            raise InputError(
                f"group {group_id.hex()} must have its own record, got one of "
                f"{group.group_id.hex()}: it is broken, or was written by an earlier version. "
                "Delete the cache's folder, or make the archive again."
            )
        return group


def _float_hex(value: float) -> str:
    """The number, not its text: on the wire it is a float32."""
    return np.float32(value).tobytes().hex()


def field_bytes(message: Message) -> bytes:
    """The numbers in a message, in the order of their fields; what is 0 is left out.

    Written out here, since protobuf may serialise otherwise in its next version.
    """
    parts = []
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.type == field.TYPE_FLOAT:
            number = _varint(field.number << 3 | 5) + np.float32(value).astype("<f4").tobytes()
        else:
            assert field.type in WHOLE_NUMBERS, f"{field.name} is no number"
            number = _varint(field.number << 3) + _varint(value)
        parts.append(number if value else b"")
    return b"".join(parts)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    content = bytearray()
    while value > 0x7F:
        content.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*content, value])


def sent_columns(each: SequenceInput, limits: InputLimits) -> Iterator[tuple[str, np.ndarray]]:
    """The columns of an example that are sent to a teacher: name, and int32 ids as on the wire."""
    for name, taken, ids in (
        ("token", limits.max_tokens, each.tokens),
        ("entity", limits.max_entities, each.entities),
        ("word", limits.max_words, each.words),
    ):
        if taken:
            yield name, ids.astype("<i4", copy=False)


class RequestKeys:
    """Makes the keys of one group, example by example."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.kind = group.description.kind
        self.limits = group.limits
        self._group_id = group.group_id
        # Hashed once: keys are made for every example of every step.
        self._prefix = hashlib.sha256(group.digest.encode())

    def key(self, each: SequenceInput) -> bytes:
        """Key of the answer about one response in its own sequence, [KEY_BYTES]."""
        sha = self._prefix.copy()
        ranges = np.array(each.ranges, "<i8").tobytes()
        sha.update(len(each.ranges).to_bytes(8, "little") + ranges)
        for name, ids in sent_columns(each, self.limits):
            # Length-prefixed: no two requests may run into the same bytes.
            sha.update(name[0].encode() + len(ids).to_bytes(8, "little"))
            sha.update(ids.tobytes())
        return self._group_id + sha.digest()
