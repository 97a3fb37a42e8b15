"""Messages of gRPC services, made of tables instead of generated code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf import field_mask_pb2 as _field_mask  # registers what tables name
from google.protobuf import timestamp_pb2 as _timestamp

_Field: Final = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
}


def define(package: str, messages: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """The classes of messages by name, of which each has fields `NAME:TYPE` by ascending number from 1.

    A type is `string`, `bytes`, `bool`, `int32` (enumerations too: they are the same on the wire), `int64`,
    `map` from string to string, or a message, of the same package or of google.protobuf. `*` before it marks
    repeated fields; "" is a number that is left out.
    """
    file = descriptor_pb2.FileDescriptorProto(name=f"obd/{package}.proto", package=package, syntax="proto3")
    file.dependency.extend([_timestamp.DESCRIPTOR.name, _field_mask.DESCRIPTOR.name])
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, field in enumerate(fields, 1):
            if field:
                _add(package, message, number, *field.split(":"))
    pool = descriptor_pool.Default()
    pool.Add(file)
    found = {name: pool.FindMessageTypeByName(f"{package}.{name}") for name in messages}
    return {name: message_factory.GetMessageClass(each) for name, each in found.items()}


def _add(package: str, message: descriptor_pb2.DescriptorProto, number: int, name: str, kind: str) -> None:
    """Adds one field; a map is, on the wire, a list of pairs."""
    label = _Field.LABEL_REPEATED if kind.startswith("*") or kind == "map" else _Field.LABEL_OPTIONAL
    kind = kind.removeprefix("*")
    field = message.field.add(name=name, number=number, label=label)
    if kind == "map":
        pair = message.nested_type.add(name=f"{name.capitalize()}Entry")
        pair.options.map_entry = True
        for at, part in enumerate(("key", "value"), 1):
            pair.field.add(name=part, number=at, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
        kind = f"{message.name}.{pair.name}"
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _Field.TYPE_MESSAGE
        field.type_name = f".{kind}" if kind.startswith("google.") else f".{package}.{kind}"
