"""Example messages that keep the contracts' rules: short ones for documents, full ones for golden vectors.

The same contracts always give the same examples. What the rules ask for in words of CEL stands in `example_values.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from buf.validate import validate_pb2
from google.protobuf import duration_pb2, field_mask_pb2, json_format, timestamp_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2, error_details_pb2, status_pb2

from artifacts import rules
from artifacts.contract import Method
from artifacts.example_values import BRIEF, FULL, NUMBERS, SKIPPED, TEXTS

_COLLECTION = re.compile(r"^\^\(?([A-Za-z]+)/")
_DEPTH_MAX = 8
"""How deep a full example goes: a message that contains itself would have no end."""
_INSTANT = 1767323045  # 2026-01-02T03:04:05Z


def brief(method: Method) -> Any:
    """A request with what it needs, and with a request_id where it can have one."""
    made = _Maker(full=False).message(method.request)
    key = method.request.fields_by_name.get("request_id")
    if key is not None and not key.is_repeated:
        setattr(made, "request_id", f"example-{_kebab(method.name)}")  # noqa: B010 - the type is known at run time alone
    return made


def full(message: Descriptor) -> Any:
    """A message with every field set; of a choice, the first."""
    return _Maker(full=True).message(message)


def json_of(message: Message, *, without: Collection[str] = ()) -> dict[str, Any]:
    """The message as REST takes it, without the fields at some paths ("endpoint.name")."""
    copy = type(message)()
    copy.CopyFrom(message)
    for path in without:
        holder: Any = copy
        *scopes, last = path.split(".")
        for scope in scopes:
            holder = getattr(holder, scope)
        holder.ClearField(last)
    made: dict[str, Any] = json_format.MessageToDict(copy)
    return made


def in_path(method: Method, field: str, parameter: str) -> str:
    """What stands for a parameter of a method's path in its example."""
    value: Any = brief(method)
    for name in field.split("."):
        value = getattr(value, name)
    parts = str(value).split("/")
    for at, part in enumerate(parts[:-1]):
        if part.startswith(parameter):
            return parts[at + 1]
    return parts[-1]


class _Maker:
    def __init__(self, *, full: bool) -> None:
        self._full = full
        self._set = FULL if full else BRIEF

    def message(self, descriptor: Descriptor, depth: int = 0) -> Any:
        made = GetMessageClass(descriptor)()
        special = self._special(made)
        if special:
            return made
        chosen = {oneof.fields[0].name for oneof in descriptor.oneofs}
        given = self._set.get(descriptor.full_name, {})
        for field in descriptor.fields:
            if field.json_name in given or (descriptor.full_name, field.name) in SKIPPED:
                continue
            oneof = field.containing_oneof
            if oneof is not None and (
                field.name not in chosen or any(other.json_name in given for other in oneof.fields)
            ):
                continue
            if self._wants(field, depth):
                self._fill(made, field, depth)
        json_format.ParseDict(given, made)
        return made

    def _wants(self, field: FieldDescriptor, depth: int) -> bool:
        if self._full:
            return field.message_type is None or depth < _DEPTH_MAX
        oneof = field.containing_oneof
        if oneof is not None and oneof.GetOptions().Extensions[validate_pb2.oneof].required:
            return True
        # An amount says something only if it is whole, and an item of a batch has a key of its own.
        needed = _scope(field) == "Money" or (depth > 0 and field.name == "request_id")
        return needed or rules.is_required(field)

    def _fill(self, made: Any, field: FieldDescriptor, depth: int) -> None:
        checked = rules.rules_of(field)
        message = field.message_type
        if message is not None and message.GetOptions().map_entry:
            key = _text(field, checked.map.keys) if checked.map.HasField("keys") else "run"
            entry = getattr(made, field.name)
            value = message.fields_by_name["value"]
            if value.message_type is not None:
                entry[key].CopyFrom(self.message(value.message_type, depth + 1))
            else:
                entry[key] = self._value(value, checked.map.values, depth)
        elif field.is_repeated:
            items = getattr(made, field.name)
            items.append(self._value(field, checked.repeated.items, depth))
        elif message is not None:
            getattr(made, field.name).CopyFrom(self._value(field, checked, depth))
        else:
            setattr(made, field.name, self._value(field, checked, depth))

    def _value(self, field: FieldDescriptor, checked: validate_pb2.FieldRules, depth: int) -> Any:
        if field.message_type is not None:
            if field.message_type.full_name == "google.protobuf.Duration":
                return _duration(checked)
            return self.message(field.message_type, depth + 1)
        if field.enum_type is not None:
            not_in = {0, *checked.enum.not_in}
            return next(value.number for value in field.enum_type.values if value.number not in not_in)
        if field.type == FieldDescriptor.TYPE_STRING:
            return _text(field, checked)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return b"example"
        if field.type == FieldDescriptor.TYPE_BOOL:
            return True
        if field.type in {FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT}:
            return 0.5
        numbers = checked.int64 if checked.HasField("int64") else checked.int32
        return max(NUMBERS.get(field.name, 1), numbers.gte)

    def _special(self, made: Any) -> bool:
        """Fills messages whose meaning is not in their fields."""
        if isinstance(made, timestamp_pb2.Timestamp):
            made.seconds = _INSTANT
        elif isinstance(made, field_mask_pb2.FieldMask):
            made.paths.append("display_name")
        elif isinstance(made, AnyMessage):
            made.Pack(error_details_pb2.ErrorInfo(reason="ACCOUNT_NOT_FOUND", domain="florin"))
        elif isinstance(made, status_pb2.Status):
            made.code = code_pb2.NOT_FOUND
            made.message = "There is no accounts/a1."
            made.details.add().Pack(
                error_details_pb2.ErrorInfo(
                    reason="ACCOUNT_NOT_FOUND", domain="florin", metadata={"account": "accounts/a1"}
                )
            )
        else:
            return False
        return True


def _duration(checked: validate_pb2.FieldRules) -> duration_pb2.Duration:
    seconds = 5
    if checked.duration.HasField("gte"):
        seconds = max(seconds, checked.duration.gte.seconds)
    if checked.duration.HasField("lte"):
        seconds = min(seconds, checked.duration.lte.seconds)
    return duration_pb2.Duration(seconds=seconds)


def _text(field: FieldDescriptor, checked: validate_pb2.FieldRules) -> str:
    for candidate in _texts(field, checked):
        if _fits(candidate, checked):
            return candidate
    raise LookupError(f"no example fits {field.full_name}; add one to artifacts/example_values.py")


def _texts(field: FieldDescriptor, checked: validate_pb2.FieldRules) -> Iterator[str]:
    for scope in (f"{_scope(field)}.", ""):
        if f"{scope}{field.name}" in TEXTS:
            yield TEXTS[f"{scope}{field.name}"]
    collection = _COLLECTION.match(checked.string.pattern)
    if collection:
        yield f"{collection[1]}/{TEXTS.get(collection[1], 'example')}"
    yield from ("example", "EXAMPLE", "2026-01-02", "florin.transactions.*")


def _fits(text: str, checked: validate_pb2.FieldRules) -> bool:
    rule = checked.string
    if len(text) < rule.min_len or (rule.HasField("max_len") and len(text) > rule.max_len):
        return False
    if rule.uuid and not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text):
        return False
    if rule.uri and not text.startswith("https://"):
        return False
    return not rule.pattern or re.search(rule.pattern, text) is not None


def _scope(field: FieldDescriptor) -> str:
    """The name of the message that has the field."""
    return str(field.full_name).rsplit(".", 2)[1]


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
