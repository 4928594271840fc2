"""Messages as JSON Schema, the way the edge writes and reads them as JSON (the protobuf JSON mapping)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from artifacts import rules
from artifacts.contract import Contract

Schema = dict[str, Any]

_INT64 = {"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"}
_SCALARS: dict[int, Schema] = {
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_INT64: _INT64,
    FieldDescriptor.TYPE_SINT64: _INT64,
    FieldDescriptor.TYPE_SFIXED64: _INT64,
    FieldDescriptor.TYPE_UINT64: {"type": "string", "format": "uint64", "pattern": "^[0-9]{1,20}$"},
    FieldDescriptor.TYPE_FIXED64: {"type": "string", "format": "uint64", "pattern": "^[0-9]{1,20}$"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_SINT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_SFIXED32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "format": "uint32", "minimum": 0},
    FieldDescriptor.TYPE_FIXED32: {"type": "integer", "format": "uint32", "minimum": 0},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}
WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": "^-?[0-9]+(\\.[0-9]{1,9})?s$"},
    "google.protobuf.FieldMask": {
        "type": "string",
        "description": 'Names of fields, joined by commas, for example "displayName,state".',
    },
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
        "additionalProperties": True,
    },
}


class Schemas:
    """Collects the schemas of the messages and enums that something refers to."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self.made: dict[str, Schema] = {}
        self._left_out: dict[str, frozenset[str]] = {}

    def message(self, message: Descriptor, *, left_out: Collection[str] = ()) -> Schema:
        """A reference to a message's schema. What stands in a request's path is left out of its body.

        Raises ValueError if the same message is asked for with other fields left out.
        """
        name = message.full_name
        if name in WELL_KNOWN:
            return dict(WELL_KNOWN[name])
        known = self._left_out.setdefault(name, frozenset(left_out))
        if known != frozenset(left_out):
            raise ValueError(f"{name} is a body without {sorted(known)} and without {sorted(left_out)}")
        if name not in self.made:
            self.made[name] = {}  # so that a message within itself ends
            self.made[name] = self._object(message, known)
        return {"$ref": f"#/components/schemas/{name}"}

    def field(self, field: FieldDescriptor) -> Schema:
        """The schema of a field's value, with its comment and its rules."""
        made = self._value(field)
        told = [self._contract.comment(field.full_name), *rules.sentences(field)]
        text = " ".join(filter(None, told))
        if text:
            made["description"] = text
        if text.startswith("Output only."):
            made["readOnly"] = True
        return made

    def _value(self, field: FieldDescriptor) -> Schema:
        checked = rules.rules_of(field)
        message = field.message_type
        if message is not None and message.GetOptions().map_entry:
            values = self._one(message.fields_by_name["value"], checked.map.values)
            return {"type": "object", "additionalProperties": values, **rules.keywords(checked)}
        if field.is_repeated:
            items = self._one(field, checked.repeated.items)
            return {"type": "array", "items": items, **rules.keywords(checked)}
        return self._one(field, checked)

    def _one(self, field: FieldDescriptor, checked: validate_pb2.FieldRules) -> Schema:
        if field.message_type is not None:
            return self.message(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type, frozenset(checked.enum.not_in))
        return {**_SCALARS[field.type], **rules.keywords(checked)}

    def _enum(self, enum: EnumDescriptor, not_in: frozenset[int]) -> Schema:
        name = enum.full_name
        if name not in self.made:
            self.made[name] = {
                "type": "string",
                "description": self._contract.comment(enum),
                # Values are added without a new version: a reader must take ones that it does not know.
                "examples": [value.name for value in enum.values if value.number],
                "x-values": {
                    value.name: self._contract.comment(f"{_scope(enum)}.{value.name}") for value in enum.values
                },
            }
        reference = {"$ref": f"#/components/schemas/{name}"}
        if not_in:
            return {**reference, "enum": [value.name for value in enum.values if value.number not in not_in]}
        return reference

    def _object(self, message: Descriptor, left_out: frozenset[str]) -> Schema:
        fields = [field for field in message.fields if field.name not in left_out]
        made: Schema = {"type": "object", "properties": {field.json_name: self.field(field) for field in fields}}
        told = [self._contract.comment(message), *rules.message_sentences(message)]
        if any(told):
            made["description"] = " ".join(filter(None, told))
        needed = [field.json_name for field in fields if rules.is_required(field) and field.name != "request_id"]
        if needed:
            made["required"] = needed
        choices = rules.required_choices(message)
        if choices:
            made["allOf"] = [{"oneOf": [{"required": [name]} for name in choice]} for choice in choices]
        return made


def _scope(enum: EnumDescriptor) -> str:
    """Where comments of a contract's enum values are kept: below the enum."""
    return str(enum.full_name)
