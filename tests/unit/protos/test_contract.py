"""A change of the proto may add to the released contract; what it takes away is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from protos import teacher_pb2
from tests.support.contract import broken_promises, contract_lines, contract_of
from tests.support.golden import CONTRACT, FOLDER, write_contract

RELEASED = json_format.ParseDict(
    {
        "name": "shop.proto",
        "package": "shop",
        "syntax": "proto3",
        "message_type": [
            {
                "name": "Order",
                "field": [
                    {"name": "id", "number": 1, "type": 4, "label": 1},
                    {"name": "items", "number": 2, "type": 9, "label": 3},
                    {"name": "note", "number": 4, "type": 9, "label": 1, "oneof_index": 0},
                ],
                "oneof_decl": [{"name": "extra"}],
                "reserved_range": [{"start": 3, "end": 4}],
                "reserved_name": ["price"],
                "enum_type": [
                    {
                        "name": "State",
                        "value": [{"name": "NEW", "number": 0}, {"name": "SENT", "number": 1}],
                        "reserved_range": [{"start": 2, "end": 2}],
                    }
                ],
            }
        ],
        "service": [
            {
                "name": "Shop",
                "method": [
                    {
                        "name": "Send",
                        "input_type": ".shop.Order",
                        "output_type": ".shop.Order",
                        "server_streaming": True,
                    }
                ],
            }
        ],
    },
    FileDescriptorProto(),
)
LINES = [
    "package shop, proto3",
    "message shop.Order",
    "field shop.Order.id = 1: optional uint64",
    "field shop.Order.items = 2: repeated string",
    "field shop.Order.note = 4: optional string in oneof extra",
    "reserved shop.Order 3",
    "reserved shop.Order 'price'",
    "enum shop.Order.State",
    "value shop.Order.State.NEW = 0",
    "value shop.Order.State.SENT = 1",
    "reserved shop.Order.State 2",
    "service shop.Shop",
    "method shop.Shop.Send: shop.Order -> stream shop.Order",
]


@pytest.mark.parametrize(
    "path", sorted(FOLDER.glob(f"v*/{CONTRACT}")), ids=lambda path: path.parent.name
)
def test_proto_keeps_what_was_released(path: object) -> None:
    released = path.read_text().splitlines()  # pyright: ignore[reportAttributeAccessIssue]
    assert len(released) > 50
    assert broken_promises(released, contract_of(teacher_pb2.DESCRIPTOR)) == []


def test_contract_has_a_line_for_every_promise() -> None:
    assert contract_lines(RELEASED) == LINES


def changed(change: Callable[[FileDescriptorProto], object]) -> list[str]:
    now = FileDescriptorProto()
    now.CopyFrom(RELEASED)
    change(now)
    return broken_promises(LINES, contract_lines(now))


def order(file: FileDescriptorProto) -> DescriptorProto:
    return file.message_type[0]


def rename_field(file: FileDescriptorProto) -> None:
    order(file).field[0].name = "number"


def renumber_field(file: FileDescriptorProto) -> None:
    order(file).field[0].number = 5


def retype_field(file: FileDescriptorProto) -> None:
    order(file).field[0].type = FieldDescriptorProto.TYPE_STRING


def relabel_field(file: FileDescriptorProto) -> None:
    order(file).field[1].label = FieldDescriptorProto.LABEL_OPTIONAL


def leave_oneof(file: FileDescriptorProto) -> None:
    order(file).field[2].ClearField("oneof_index")


def join_oneof(file: FileDescriptorProto) -> None:
    order(file).field[0].oneof_index = 0


def renumber_value(file: FileDescriptorProto) -> None:
    order(file).enum_type[0].value[1].number = 7


def end_stream(file: FileDescriptorProto) -> None:
    file.service[0].method[0].server_streaming = False


def rename_package(file: FileDescriptorProto) -> None:
    file.package = "store"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            rename_field,
            "field shop.Order.id = 1: optional uint64 must stay, "
            "got field shop.Order.number = 1: optional uint64.",
        ),
        (
            renumber_field,
            "field shop.Order.id = 1: optional uint64 must stay, "
            "got field shop.Order.id = 5: optional uint64.",
        ),
        (
            retype_field,
            "field shop.Order.id = 1: optional uint64 must stay, "
            "got field shop.Order.id = 1: optional string.",
        ),
        (
            relabel_field,
            "field shop.Order.items = 2: repeated string must stay, "
            "got field shop.Order.items = 2: optional string.",
        ),
        (
            leave_oneof,
            "field shop.Order.note = 4: optional string in oneof extra must stay, "
            "got field shop.Order.note = 4: optional string.",
        ),
        (
            join_oneof,
            "field shop.Order.id = 1: optional uint64 must stay, "
            "got field shop.Order.id = 1: optional uint64 in oneof extra.",
        ),
        (
            lambda file: order(file).field.pop(0),
            "field shop.Order.id = 1: optional uint64 must stay, got nothing.",
        ),
        (
            lambda file: order(file).reserved_range.pop(),
            "reserved shop.Order 3 must stay, got nothing.",
        ),
        (
            lambda file: order(file).reserved_name.pop(),
            "reserved shop.Order 'price' must stay, got nothing.",
        ),
        (
            renumber_value,
            "value shop.Order.State.SENT = 1 must stay, got value shop.Order.State.SENT = 7.",
        ),
        (
            end_stream,
            "method shop.Shop.Send: shop.Order -> stream shop.Order must stay, "
            "got method shop.Shop.Send: shop.Order -> shop.Order.",
        ),
    ],
)
def test_change_that_breaks_one_promise_names_it(
    change: Callable[[FileDescriptorProto], object], message: str
) -> None:
    assert changed(change) == [message]


def test_a_service_that_goes_takes_its_methods_along() -> None:
    broken = changed(lambda file: file.service.pop())
    assert [line.split(" must")[0] for line in broken] == LINES[-2:]


def test_another_package_breaks_every_promise() -> None:
    assert len(changed(rename_package)) == len(LINES)


def test_additions_break_nothing() -> None:
    def add(file: FileDescriptorProto) -> None:
        order(file).field.add(name="price_2", number=9, type=5, label=1)
        order(file).enum_type[0].value.add(name="LOST", number=9)
        order(file).reserved_range.add(start=10, end=12)
        file.message_type.add(name="Receipt")
        file.service[0].method.add(
            name="Cancel", input_type=".shop.Order", output_type=".shop.Order"
        )

    assert changed(add) == []


def test_contract_that_breaks_a_promise_is_not_written(tmp_path: Path) -> None:
    write_contract(tmp_path)
    path = tmp_path / CONTRACT
    released = path.read_text() + "message conkd.v1.Gone\n"
    path.write_text(released)
    with pytest.raises(ValueError, match=r"message conkd\.v1\.Gone must stay, got nothing"):
        write_contract(tmp_path)
    assert path.read_text() == released
