"""What protovalidate checks on a request, as keywords of JSON Schema; what has no keyword is told in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

Schema = dict[str, Any]


def rules_of(field: FieldDescriptor) -> validate_pb2.FieldRules:
    """The rules of a field; empty where it has none."""
    found: validate_pb2.FieldRules = field.GetOptions().Extensions[validate_pb2.field]
    return found


def is_required(field: FieldDescriptor) -> bool:
    """Whether a request without the field is refused, be it that its default breaks a rule."""
    rules = rules_of(field)
    if rules.required:
        return True
    if field.has_presence or rules.ignore == validate_pb2.IGNORE_IF_ZERO_VALUE:
        return False
    if field.is_repeated:
        return rules.repeated.min_items > 0
    if rules.HasField("string"):
        text = rules.string
        return text.min_len > 0 or text.uuid or text.uri or bool(text.pattern and not re.search(text.pattern, ""))
    if rules.HasField("enum"):
        return 0 in rules.enum.not_in
    if rules.HasField("bool"):
        return rules.bool.const
    return any(getattr(numbers, "gte", 0) > 0 for numbers in (rules.int32, rules.int64))


def keywords(rules: validate_pb2.FieldRules) -> Schema:
    """The keywords for one value; for a repeated field, those of the list."""
    kind = rules.WhichOneof("type")
    if kind is None:
        return {}
    made = _KINDS.get(kind, lambda _: {})(getattr(rules, kind))
    if rules.ignore == validate_pb2.IGNORE_IF_ZERO_VALUE and kind == "string" and made:
        return {"anyOf": [{"maxLength": 0}, made]}
    return made


def item_keywords(rules: validate_pb2.FieldRules) -> Schema:
    """The keywords for each item of a list."""
    return keywords(rules.repeated.items)


def sentences(field: FieldDescriptor) -> list[str]:
    """What no keyword can say: limits of numbers that are strings in JSON, of durations, and rules of their own."""
    rules = rules_of(field)
    told = [f"{rule.message[:1].upper()}{rule.message[1:]}." for rule in rules.cel]
    if rules.HasField("int64"):
        numbers = rules.int64
        bounds = {name.name: value for name, value in numbers.ListFields()}
        told += [f"At least {bounds['gte']}."] if "gte" in bounds else []
        told += [f"At most {bounds['lte']}."] if "lte" in bounds else []
    if rules.HasField("duration"):
        told += [f"At least {_duration(rules.duration.gte)}."] if rules.duration.HasField("gte") else []
        told += [f"At most {_duration(rules.duration.lte)}."] if rules.duration.HasField("lte") else []
    return told


def message_sentences(message: Descriptor) -> list[str]:
    """The rules that a message has as a whole."""
    rules = message.GetOptions().Extensions[validate_pb2.message]
    return [f"{rule.message[:1].upper()}{rule.message[1:]}." for rule in rules.cel]


def required_choices(message: Descriptor) -> list[list[str]]:
    """For each choice that must be made: the fields of which one is given."""
    return [
        [field.json_name for field in oneof.fields]
        for oneof in message.oneofs
        if oneof.GetOptions().Extensions[validate_pb2.oneof].required
    ]


def _duration(value: Any) -> str:
    """As JSON has it: "2678400s", "0.05s"."""
    return f"{value.ToTimedelta().total_seconds():.6f}".rstrip("0").rstrip(".") + "s"


def _string(rules: validate_pb2.StringRules) -> Schema:
    made: Schema = {}
    if rules.HasField("min_len"):
        made["minLength"] = rules.min_len
    if rules.HasField("max_len"):
        made["maxLength"] = rules.max_len
    if rules.pattern:
        made["pattern"] = rules.pattern
    if rules.uuid:
        made["format"] = "uuid"
    if rules.uri:
        made["format"] = "uri"
    return made


def _numbers(rules: Message) -> Schema:
    given = {field.name: value for field, value in rules.ListFields()}
    names = {"gte": "minimum", "lte": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
    return {names[name]: value for name, value in given.items() if name in names}


def _repeated(rules: validate_pb2.RepeatedRules) -> Schema:
    made: Schema = {}
    if rules.min_items:
        made["minItems"] = rules.min_items
    if rules.HasField("max_items"):
        made["maxItems"] = rules.max_items
    if rules.unique:
        made["uniqueItems"] = True
    return made


def _map(rules: validate_pb2.MapRules) -> Schema:
    made: Schema = {}
    if rules.HasField("max_pairs"):
        made["maxProperties"] = rules.max_pairs
    if rules.HasField("keys"):
        made["propertyNames"] = keywords(rules.keys)
    return made


def _bytes(rules: validate_pb2.BytesRules) -> Schema:
    # In JSON three bytes are four letters.
    return {"maxLength": -(-rules.max_len // 3) * 4} if rules.HasField("max_len") else {}


def _bool(rules: validate_pb2.BoolRules) -> Schema:
    return {"const": rules.const} if rules.HasField("const") else {}


_KINDS: Mapping[str, Callable[[Any], Schema]] = {
    "string": _string,
    "int32": _numbers,
    "double": _numbers,
    "repeated": _repeated,
    "map": _map,
    "bytes": _bytes,
    "bool": _bool,
}
