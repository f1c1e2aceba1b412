"""The released contract as lines of text, and what a change of the proto breaks of it.

A line names one promise: a message, a field with its number, label and type, a reserved number, a
value of an enum, a method with its streams. A release keeps every line and may add others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)
from google.protobuf.message import Message

# An end that is left open, `to max`, is not written number by number.
MAX_RESERVED = 1000


def contract_lines(file: FileDescriptorProto) -> list[str]:
    """All promises of a proto file, in its order."""
    lines = [f"package {file.package}, {file.syntax}"]
    for message in file.message_type:
        lines += _message(file.package, message)
    for enum in file.enum_type:
        lines += _enum(file.package, enum)
    for service in file.service:
        lines += _service(file.package, service)
    return lines


def contract_of(module_descriptor: Message | object) -> list[str]:
    """The promises of a generated module's DESCRIPTOR."""
    file = FileDescriptorProto()
    module_descriptor.CopyToProto(file)  # pyright: ignore[reportAttributeAccessIssue]
    return contract_lines(file)


def broken_promises(released: Sequence[str], now: Sequence[str]) -> list[str]:
    """One line for every released promise that is not kept, with what stands there now."""
    kept = set(now)
    return [
        f"{line} must stay, got {_instead(line, now)}." for line in released if line not in kept
    ]


def _instead(line: str, now: Sequence[str]) -> str:
    """What has the name of a line now, or its number; nothing."""
    by_name = [other for other in now if _name(other) == _name(line)]
    by_number = [other for other in now if _number(line) and _number(other) == _number(line)]
    return (by_name + by_number + ["nothing"])[0]


def _name(line: str) -> str:
    return line.split(" = ")[0].split(": ")[0]


def _number(line: str) -> tuple[str, str] | None:
    """The message or enum of a line, and its number there."""
    name, is_numbered, rest = line.partition(" = ")
    return (name.rpartition(".")[0], rest.split(": ")[0]) if is_numbered else None


def _message(scope: str, message: DescriptorProto) -> Iterator[str]:
    name = f"{scope}.{message.name}"
    yield f"message {name}"
    for field in message.field:
        yield f"field {name}.{field.name} = {field.number}: {_type(message, field)}"
    for reserved in message.reserved_range:
        yield from _reserved(name, reserved.start, reserved.end)
    yield from (f"reserved {name} {it!r}" for it in message.reserved_name)
    for inner in message.nested_type:
        yield from _message(name, inner)
    for enum in message.enum_type:
        yield from _enum(name, enum)


def _type(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    label = FieldDescriptorProto.Label.Name(field.label).removeprefix("LABEL_").lower()
    kind = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    words = [label, kind, field.type_name.lstrip(".")]
    if field.proto3_optional:
        words.append("with presence")
    elif field.HasField("oneof_index"):
        words.append(f"in oneof {message.oneof_decl[field.oneof_index].name}")
    return " ".join(word for word in words if word)


def _enum(scope: str, enum: EnumDescriptorProto) -> Iterator[str]:
    name = f"{scope}.{enum.name}"
    yield f"enum {name}"
    for value in enum.value:
        yield f"value {name}.{value.name} = {value.number}"
    for reserved in enum.reserved_range:
        # Of an enum the end is inclusive.
        yield from _reserved(name, reserved.start, reserved.end + 1)
    yield from (f"reserved {name} {it!r}" for it in enum.reserved_name)


def _reserved(name: str, start: int, end: int) -> Iterator[str]:
    if end - start > MAX_RESERVED:
        yield f"reserved {name} {start} to max"
        return
    yield from (f"reserved {name} {number}" for number in range(start, end))


def _service(scope: str, service: ServiceDescriptorProto) -> Iterator[str]:
    name = f"{scope}.{service.name}"
    yield f"service {name}"
    for method in service.method:
        asked = "stream " * method.client_streaming + method.input_type.lstrip(".")
        answered = "stream " * method.server_streaming + method.output_type.lstrip(".")
        yield f"method {name}.{method.name}: {asked} -> {answered}"
