"""Requests of any method: sound ones around resources of a mesh, and copies with one field made hostile at a time."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from buf.validate import validate_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

TEXTS = ("a\0b", "\u202e\ufeff\x01\U0010ffff", "'; DROP TABLE x; -- %s {0}", "x" * 100_000)
TEXTS_OF = {
    "filter": (
        'end_to_end_id = "\0"',
        "amount.minor_units = 99999999999999999999",
        'create_time > "9999-99-99T00:00:00Z"',
        'create_time > "0001-01-01T00:00:00+23:59"',
        'create_time < "9999-12-31T23:59:59-23:59"',
    ),
    "page_token": ("AAAA", "====", "é"),
    "resume_token": ("AAAA", "====", "é"),
    "expression": ("1", "payment.x", "((((", "true" + " || true" * 200, "'" + "a" * 1990 + "'"),
    "url": ("http://[::1", "javascript:alert(1)", "https://user:pass@localhost/", "http://127.0.0.1:99999/"),
    "time_zone": ("../../etc/passwd", "Mars/Olympus"),
    "start_date": ("2026-02-30", "2999-12-31", "0001-01-01", "2026-W01-1"),
    "end_date": ("2026-02-30", "2000-01-01", "2999-12-31"),
    "date": ("2026-02-30", "2999-12-31"),
    "local_time": ("24:00", "23:59:60", "6:00"),
}
NUMBERS = (-1, 1001, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))
TIMES = ((2**62, 0), (-62_135_596_801, 0), (253_402_300_800, 0), (0, -1))
MASKS = ("", "\0", "name", "*", "x" * 100_000)
ENUMS = (0, 999)
_DEPTH_MAX = 4


def sound_request(method: MethodDescriptor, names: Mapping[str, str]) -> Message:
    """A request of a method that breaks no rule; `names` has a resource of each kind, by the first part of its name."""
    request = sound(method.input_type, names)
    _TWEAKS.get(method.name, lambda *_: None)(request, names)
    return request


def sound(descriptor: Descriptor, names: Mapping[str, str], depth: int = 0) -> Message:
    """A message that breaks no rule of a field."""
    message = message_factory.GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if field.containing_oneof is not None and field.containing_oneof.fields[0] is not field:
            continue
        target = field.message_type
        if target is not None and target.GetOptions().map_entry:
            continue
        if target is not None and target.full_name == "google.protobuf.FieldMask":
            getattr(message, field.name).paths.append("display_name")
        elif target is not None:
            if depth < _DEPTH_MAX and not target.full_name.startswith("google.") and field.name != "identifiers":
                inner = sound(target, names, depth + 1)
                getattr(message, field.name).append(inner) if field.is_repeated else getattr(
                    message, field.name
                ).CopyFrom(inner)
        elif not field.is_repeated:
            _fill(message, field, names)
    return message


def variants(message: Any) -> Iterator[tuple[str, Any]]:
    """Copies of a request, each with one field made hostile, and what was done."""
    for field in message.DESCRIPTOR.fields:
        if field.is_repeated:
            yield from _in_list(message, field)
        elif field.message_type is not None:
            yield from _in_message(message, field)
        else:
            for value in _values(field):
                copy = _copy(message)
                setattr(copy, field.name, value)
                yield f"{field.name}={str(value)[:20]!r}", copy


def _open_account(request: Any, names: Mapping[str, str]) -> None:
    request.customers.append(names["customers"])


def _fund(request: Any, names: Mapping[str, str]) -> None:
    request.settlement_account = names["settlement"]


def _submit(request: Any, names: Mapping[str, str]) -> None:
    request.customer = names["unverified"]


def _reject(request: Any, names: Mapping[str, str]) -> None:
    request.name = names["unverified"].replace("customers", "kycProfiles")


def _describe(request: Any, _: Mapping[str, str]) -> None:
    request.update_mask.paths[:] = ["description"]


def _newest(request: Any, _: Mapping[str, str]) -> None:
    request.tree_size = 0


def _first_trees(request: Any, _: Mapping[str, str]) -> None:
    request.first_size = request.second_size = 1


def _from_the_beginning(request: Any, _: Mapping[str, str]) -> None:
    request.start_position = 0


def _at_the_beginning(request: Any, _: Mapping[str, str]) -> None:
    request.as_of_sequence = 0


def _from_the_first(request: Any, _: Mapping[str, str]) -> None:
    request.after_sequence = 0


def _reject_change(request: Any, names: Mapping[str, str]) -> None:
    request.name = names.get("rejectable", request.name)


def _a_part(request: Any, _: Mapping[str, str]) -> None:
    request.amount.minor_units = 1


def _capture(request: Any, names: Mapping[str, str]) -> None:
    request.name = names.get("authorizations", request.name)
    request.amount.minor_units = 1
    request.final = False


def _void(request: Any, names: Mapping[str, str]) -> None:
    request.name = names.get("voidable", request.name)


def _fees(request: Any, names: Mapping[str, str]) -> None:
    request.fee_schedule.fee_account = names["fee_account"]


def _newest_version(request: Any, _: Mapping[str, str]) -> None:
    request.version = 0


def _without_quote(request: Any, _: Mapping[str, str]) -> None:
    request.quote = request.state_token = ""


def _of_a_stream_without_quote(request: Any, names: Mapping[str, str]) -> None:
    _without_quote(request.transfer, names)


def _without_quotes(request: Any, _: Mapping[str, str]) -> None:
    for one in request.requests:
        one.quote = one.state_token = ""


def _rates(request: Any, _: Mapping[str, str]) -> None:
    (rate,) = request.exchange_rates
    rate.base_currency_code, rate.counter_currency_code = "CHF", "USD"
    rate.rate.value = "1.25"
    rate.rate_time.GetCurrentTime()


def _position(request: Any, names: Mapping[str, str]) -> None:
    request.position_account.account = names["position_account"]


def _into_dollars(request: Any, _: Mapping[str, str]) -> None:
    request.other_currency_code = "USD"


def _two_legs(request: Any, names: Mapping[str, str]) -> None:
    request.legs[0].ClearField("expected_version")
    request.legs.add().CopyFrom(request.legs[0])
    request.legs[0].amount.minor_units *= -1
    for leg, name in zip(request.legs, (names["accounts"], names["credit_accounts"]), strict=True):
        leg.account = name


def _two_legs_each(request: Any, names: Mapping[str, str]) -> None:
    for one in request.requests:
        _two_legs(one, names)


def _replay_all(request: Any, _: Mapping[str, str]) -> None:
    request.delivery = ""
    request.start_time.seconds = 1


def _amount(request: Any, _: Mapping[str, str]) -> None:
    request.update_mask.paths[:] = ["amount"]
    request.schedule.amount.minor_units = 1


def _of_nostro(request: Any, names: Mapping[str, str]) -> None:
    request.account = names["nostro"]


def _reconciliation(request: Any, names: Mapping[str, str]) -> None:
    request.name = f"{names['nostro']}/reconciliation"


def _match_items(request: Any, names: Mapping[str, str]) -> None:
    request.account = names["nostro"]
    request.ledger_items[:], request.bank_items[:] = [names["ledger_item"]], [names["bank_item"]]


def _resolve_item(request: Any, names: Mapping[str, str]) -> None:
    request.name = names["resolvable"]


def _approve_match(request: Any, names: Mapping[str, str]) -> None:
    request.name = names["approvable"]


def _reject_match(request: Any, names: Mapping[str, str]) -> None:
    request.name = names["rejectable_match"]


_TWEAKS: dict[str, Callable[[Any, Mapping[str, str]], None]] = {
    "CreateAccount": _open_account,
    "GetTreeHead": _newest,
    "GetInclusionProof": _newest,
    "GetConsistencyProof": _first_trees,
    "ExportJournals": _from_the_beginning,
    "FundAccount": _fund,
    "SubmitKyc": _submit,
    "RejectCustomer": _reject,
    "UpdateWebhookEndpoint": _describe,
    "ReplayDeliveries": _replay_all,
    "GetBalance": _at_the_beginning,
    "ListEntries": _at_the_beginning,
    "WatchAccount": _from_the_first,
    "RejectOverdraftChange": _reject_change,
    "ReverseTransfer": _a_part,
    "CaptureTransfer": _capture,
    "VoidTransfer": _void,
    "UpdateSchedule": _amount,
    "SetFeeSchedule": _fees,
    "GetFeeSchedule": _newest_version,
    "CreateTransfer": _without_quote,
    "BatchCreateTransfers": _without_quotes,
    "StreamTransfers": _of_a_stream_without_quote,
    "ImportExchangeRates": _rates,
    "GetExchangeRate": _newest_version,
    "SetPositionAccount": _position,
    "CreateQuote": _into_dollars,
    "PostJournal": _two_legs,
    "BatchPostJournals": _two_legs_each,
    "ListBankStatements": _of_nostro,
    "ListOpenItems": _of_nostro,
    "ListItemMatches": _of_nostro,
    "GetReconciliation": _reconciliation,
    "MatchItems": _match_items,
    "ResolveItem": _resolve_item,
    "ApproveItemMatch": _approve_match,
    "RejectItemMatch": _reject_match,
}
"""What a request of a method needs beyond sound fields."""


_CHOSEN = ("transfer", "schedule", "customer", "account", "endpoint", "tenant")


def refresh(message: Any) -> None:
    """New keys in a request, so that it is not answered from the record of an earlier one."""
    for one in (message, *getattr(message, "requests", ())):
        for name in ("request_id", *(f"{kind}_id" for kind in _CHOSEN)):
            if name in one.DESCRIPTOR.fields_by_name and len(getattr(one, name)) == len(_key()):
                setattr(one, name, _key())


def _key() -> str:
    return f"k{secrets.token_hex(7)}"


def _fill(message: Any, field: FieldDescriptor, names: Mapping[str, str]) -> None:
    if field.type == FieldDescriptor.TYPE_STRING:
        setattr(message, field.name, _text(field, names))
    elif field.type == FieldDescriptor.TYPE_ENUM:
        setattr(message, field.name, 1)
    elif field.type in {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_INT32}:
        setattr(message, field.name, 10)


_RESOURCES = {
    "Customer": "customers",
    "Account": "accounts",
    "WebhookEndpoint": "webhookEndpoints",
    "Schedule": "schedules",
}
_SOUND_TEXTS = {
    "etag": "",
    "currency_code": "EUR",
    "country_code": "DE",
    "birth_date": "1990-01-01",
    "url": "http://127.0.0.1:9/x",
    "expression": "false",
    "time_zone": "UTC",
    "rule_id": "hostile",
    "watchlist_id": "hostile",
    "filter": "",
    "page_token": "",
    "resume_token": "",
    "delivery": "deliveries/none",
    "end_to_end_id": "E2E",
    "period_start": "2026-01-01",
    "period_end": "2026-01-31",
    "start_date": "2990-01-01",
    "end_date": "2998-12-31",
    "date": "2990-12-25",
    "local_time": "06:00",
    "calendar_id": "hostile",
    "creditor_iban": "DE89370400440532013000",
}


def _text(field: FieldDescriptor, names: Mapping[str, str]) -> str:
    if field.name in _SOUND_TEXTS:
        return _SOUND_TEXTS[field.name]
    if field.name == "name" and field.containing_type.name in _RESOURCES:
        return names[_RESOURCES[field.containing_type.name]]
    if field.name == "credit_account":
        return names["credit_accounts"]
    pattern = field.GetOptions().Extensions[validate_pb2.field].string.pattern
    for kind, name in names.items():
        if f"{kind}/" in pattern:
            return name
    return _key() if field.name.endswith("_id") else "text"


def _values(field: FieldDescriptor) -> tuple[Any, ...]:
    if field.type == FieldDescriptor.TYPE_STRING:
        return (*TEXTS, *TEXTS_OF.get(field.name, ()))
    if field.type == FieldDescriptor.TYPE_INT64:
        return NUMBERS
    if field.type == FieldDescriptor.TYPE_INT32:
        return NUMBERS[:4]
    return ENUMS if field.type == FieldDescriptor.TYPE_ENUM else ()


def _in_list(message: Any, field: FieldDescriptor) -> Iterator[tuple[str, Any]]:
    present = getattr(message, field.name)
    if field.message_type is not None and len(present):
        for what, inner in variants(present[0]):
            copy = _copy(message)
            getattr(copy, field.name)[0].CopyFrom(inner)
            yield f"{field.name}[0].{what}", copy
    elif field.type == FieldDescriptor.TYPE_STRING:
        for value in TEXTS:
            copy = _copy(message)
            getattr(copy, field.name).append(value)
            yield f"{field.name}+={value[:20]!r}", copy


def _in_message(message: Any, field: FieldDescriptor) -> Iterator[tuple[str, Any]]:
    kind = field.message_type.full_name if field.message_type is not None else ""
    if kind in {"google.protobuf.Timestamp", "google.protobuf.Duration"}:
        for seconds, nanos in TIMES:
            copy = _copy(message)
            moment = getattr(copy, field.name)
            moment.seconds, moment.nanos = seconds, nanos
            yield f"{field.name}={seconds}.{nanos}", copy
    elif kind == "google.protobuf.FieldMask":
        for path in MASKS:
            copy = _copy(message)
            getattr(copy, field.name).paths.append(path)
            yield f"{field.name}+={path[:20]!r}", copy
    elif message.HasField(field.name):
        copy = _copy(message)
        copy.ClearField(field.name)
        yield f"without {field.name}", copy
        for what, inner in variants(getattr(message, field.name)):
            copy = _copy(message)
            getattr(copy, field.name).CopyFrom(inner)
            yield f"{field.name}.{what}", copy


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
