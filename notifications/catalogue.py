"""The public events as their contracts declare them: who may see which; it must not know any event by name."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import cast

from google.protobuf import message_factory
from google.protobuf.message import Message

from meshkit.policy import event_policies

PUBLISHERS = ("accounts", "compliance", "transactions")
"""The services whose events are brought to users. Notifications' own event is not public."""


@dataclass(frozen=True, slots=True)
class EventType:
    """A public event."""

    name: str
    """The NATS subject and CloudEvents type."""
    source: str
    message: type[Message]
    scopes: tuple[str, ...]
    """A receiver has at least one of these."""
    customers: Callable[[Message], Iterable[str]] | None
    """Reads who may see an event beside staff; None where no customer may."""


@functools.cache
def public_types() -> Mapping[str, EventType]:
    """Every public event by its name. Raises ValueError when a contract's policy cannot be applied."""
    found: dict[str, EventType] = {}
    for publisher in PUBLISHERS:
        module = importlib.import_module(f"florin.{publisher}.v1.events_pb2")
        policies = event_policies(publisher)
        by_subject = {
            _subject_of(descriptor): descriptor for descriptor in module.DESCRIPTOR.message_types_by_name.values()
        }
        for subject, policy in policies.items():
            if not policy.public:
                continue
            if not policy.scopes:
                raise ValueError(f"{subject} is public and names no scope: anybody could see it")
            descriptor = by_subject[subject]
            found[subject] = EventType(
                name=subject,
                source=f"//florin/{publisher}",
                message=message_factory.GetMessageClass(descriptor),
                scopes=tuple(policy.scopes),
                customers=_reader(descriptor, policy.customers),
            )
    return found


def _subject_of(descriptor: object) -> str:
    from florin.common.v1 import policy_pb2

    return str(descriptor.GetOptions().Extensions[policy_pb2.event].subject)  # type: ignore[attr-defined]


def _reader(descriptor: object, path: str) -> Callable[[Message], Iterable[str]] | None:
    if not path:
        return None
    field = descriptor.fields_by_name.get(path)  # type: ignore[attr-defined]
    if field is None or not field.is_repeated or field.type != field.TYPE_STRING:
        raise ValueError(f"the event policy's customers path {path} is no repeated string field of its event")
    return cast("Callable[[Message], Iterable[str]]", attrgetter(path))


def covers(pattern: str, event_type: str) -> bool:
    """Whether a filter's entry means an event type: its name, or its beginning with ".*" for the rest."""
    if pattern.endswith(".*"):
        return event_type.startswith(pattern[:-1])
    return pattern == event_type


def first_unknown(patterns: Iterable[str]) -> str | None:
    """The first entry of a filter that means no public event; None when all mean some."""
    names = public_types()
    return next((pattern for pattern in patterns if not any(covers(pattern, name) for name in names)), None)


def may_see(event_type: str, scopes: Iterable[str]) -> bool:
    """Whether somebody with these scopes may see events of a type. Raises KeyError for one that is not public."""
    return not frozenset(scopes).isdisjoint(public_types()[event_type].scopes)


def visible(patterns: Iterable[str], scopes: Iterable[str]) -> list[str]:
    """The event types that a filter asks for and the scopes allow, sorted. An empty filter asks for all."""
    wanted, held = tuple(patterns), frozenset(scopes)
    return sorted(
        kind.name
        for kind in public_types().values()
        if not held.isdisjoint(kind.scopes) and (not wanted or any(covers(pattern, kind.name) for pattern in wanted))
    )
