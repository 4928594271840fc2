"""The contracts as their readers see them: services, methods, reasons in their order, events; it judges nothing."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, EnumDescriptor, MethodDescriptor

from florin.common.v1 import errors_pb2, policy_pb2

GENERATED = Path(policy_pb2.__file__).resolve().parents[3]
ALL = GENERATED / "descriptors.binpb"
_WORD = re.compile(r"\b[A-Z][A-Z]+(?:_[A-Z]+)*\b")
_REASONS = re.compile(r"Reasons(?! per item)[^:.]*: ([^.]*)\.")
_ITEMS = re.compile(r"(?:Reasons per item: those of|Each item is refused as by) (\w+)\.")
_GENERAL = re.compile(r"before its own reasons, with ([^.]*), in this order")


@dataclass(frozen=True, slots=True)
class Route:
    """Where REST callers find a method."""

    verb: str
    """In lower case: get, post, patch, delete."""
    template: str
    """As the contract has it, for example "/v1/{name=transfers/*}:wait"."""
    body: str
    """"*" for the whole request, a field's name, or nothing."""


@dataclass(frozen=True, slots=True)
class Method:
    """A public method."""

    descriptor: MethodDescriptor
    policy: policy_pb2.MethodPolicy
    comment: str
    """With its paragraphs, without the list of reasons."""
    reasons: tuple[str, ...]
    """Its own, in order of precedence."""
    item_reasons: tuple[str, ...]
    """Those of each item, where it takes many at once and answers each."""
    general: tuple[str, ...]
    """Those of every method of its service, which stand before its own."""
    route: Route | None

    @property
    def name(self) -> str:
        """For example CreateTransfer."""
        return str(self.descriptor.name)

    @property
    def service(self) -> str:
        """For example florin.transactions.v1.TransferService."""
        return str(self.descriptor.containing_service.full_name)

    @property
    def full_name(self) -> str:
        """As grpcurl takes it."""
        return f"{self.service}/{self.name}"

    @property
    def request(self) -> Descriptor:
        """What it takes."""
        return self.descriptor.input_type

    @property
    def response(self) -> Descriptor:
        """What it answers with."""
        return self.descriptor.output_type

    @property
    def has_request_id(self) -> bool:
        """Whether a request carries the caller's key."""
        return "request_id" in self.request.fields_by_name

    @property
    def is_streaming(self) -> bool:
        """Whether either side may send more than one message."""
        return bool(self.descriptor.client_streaming or self.descriptor.server_streaming)


@dataclass(frozen=True, slots=True)
class Service:
    """A public service."""

    name: str
    """The full name."""
    comment: str
    methods: tuple[Method, ...]

    @property
    def short_name(self) -> str:
        """Without its package."""
        return self.name.rsplit(".", 1)[1]

    @property
    def file(self) -> str:
        """Where it is declared, for example "florin/accounts/v1/account_service.proto"."""
        return str(self.methods[0].descriptor.containing_service.file.name)


@dataclass(frozen=True, slots=True)
class Event:
    """An event that receivers outside may be given."""

    descriptor: Descriptor
    policy: policy_pb2.EventPolicy
    comment: str


@dataclass(frozen=True)
class Contract:
    """All that is published."""

    descriptors: descriptor_pb2.FileDescriptorSet = field(repr=False)
    """Every contract, internal ones too, with comments."""

    @cached_property
    def comments(self) -> Mapping[str, str]:
        """Full name → leading comment, of messages, fields, enums, values, services and methods."""
        found: dict[str, str] = {}
        for file in self.descriptors.file:
            found.update(_comments(file))
        return found

    @cached_property
    def services(self) -> tuple[Service, ...]:
        """The public services, by name."""
        made = []
        for file in self.descriptors.file:
            for service in file.service:
                name = f"{file.package}.{service.name}"
                methods = tuple(self._methods(name))
                if methods:
                    made.append(Service(name, self.comments[name], methods))
        return tuple(sorted(made, key=lambda service: service.name))

    @property
    def methods(self) -> Iterator[Method]:
        """Every public method."""
        for service in self.services:
            yield from service.methods

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """The public events, by subject."""
        made = []
        for file in self.descriptors.file:
            if file.name.endswith("/events.proto"):
                for message in file.message_type:
                    descriptor = descriptor_pool.Default().FindMessageTypeByName(f"{file.package}.{message.name}")
                    policy = descriptor.GetOptions().Extensions[policy_pb2.event]
                    if policy.subject and policy.public:
                        made.append(Event(descriptor, policy, self.comments[descriptor.full_name]))
        return tuple(sorted(made, key=lambda event: event.policy.subject))

    @cached_property
    def reasons(self) -> Mapping[str, str]:
        """Reason → its sentence, in the order of errors.proto."""
        values = errors_pb2.Reason.DESCRIPTOR.values
        prefix = "florin.common.v1.Reason."
        return {
            value.name.removeprefix("REASON_"): " ".join(self.comments[prefix + value.name].split())
            for value in values
            if value.number
        }

    def comment(self, of: Descriptor | EnumDescriptor | str) -> str:
        """The comment of something, as one paragraph; empty where there is none."""
        name = of if isinstance(of, str) else of.full_name
        return " ".join(self.comments.get(name, "").split())

    def _methods(self, service: str) -> Iterator[Method]:
        descriptor = descriptor_pool.Default().FindServiceByName(service)
        general = _GENERAL.search(self.comment(service))
        for method in descriptor.methods:
            policy = method.GetOptions().Extensions[policy_pb2.policy]
            if policy.scopes:
                comment = self.comments[f"{service}.{method.name}"]
                yield Method(
                    descriptor=method,
                    policy=policy,
                    comment=_without_reasons(comment),
                    reasons=_reasons(comment),
                    item_reasons=self._item_reasons(service, comment),
                    general=tuple(_WORD.findall(general[1])) if general else (),
                    route=_route(method),
                )

    def _item_reasons(self, service: str, comment: str) -> tuple[str, ...]:
        single = _ITEMS.search(" ".join(comment.split()))
        return _reasons(self.comments[f"{service}.{single[1]}"]) if single else ()


@cache
def load() -> Contract:
    """The contracts that `make gen` made stubs of."""
    everything = descriptor_pb2.FileDescriptorSet.FromString(ALL.read_bytes())
    for file in everything.file:
        if file.name.startswith("florin/"):
            # Importing the stub is what puts a file into the runtime's pool.
            importlib.import_module(file.name.removesuffix(".proto").replace("/", ".") + "_pb2")
    return Contract(everything)


def version() -> str:
    """The version of this repository, which is that of all that it publishes."""
    import tomllib

    project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())
    return str(project["project"]["version"])


def _route(method: MethodDescriptor) -> Route | None:
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern")
    return Route(verb, getattr(rule, verb), rule.body) if verb else None


def _reasons(comment: str) -> tuple[str, ...]:
    listed = _REASONS.search(" ".join(comment.split()))
    return tuple(_WORD.findall(listed[1])) if listed else ()


def _without_reasons(comment: str) -> str:
    paragraphs = [" ".join(text.split()) for text in re.split(r"\n\s*\n", comment.strip())]
    return "\n\n".join(text for text in paragraphs if not text.startswith(("Reasons", "Each item is refused")))


def _comments(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, str]]:
    texts = {tuple(location.path): location.leading_comments for location in file.source_code_info.location}

    def of_message(
        message: descriptor_pb2.DescriptorProto, path: tuple[int, ...], scope: str
    ) -> Iterator[tuple[str, str]]:
        name = f"{scope}.{message.name}"
        yield name, texts.get(path, "")
        for at, one in enumerate(message.field):
            yield f"{name}.{one.name}", texts.get((*path, 2, at), "")
        for at, nested in enumerate(message.nested_type):
            yield from of_message(nested, (*path, 3, at), name)
        for at, enum in enumerate(message.enum_type):
            yield from of_enum(enum, (*path, 4, at), name)

    def of_enum(
        enum: descriptor_pb2.EnumDescriptorProto, path: tuple[int, ...], scope: str
    ) -> Iterator[tuple[str, str]]:
        name = f"{scope}.{enum.name}"
        yield name, texts.get(path, "")
        for at, value in enumerate(enum.value):
            yield f"{name}.{value.name}", texts.get((*path, 2, at), "")

    for at, message in enumerate(file.message_type):
        yield from of_message(message, (4, at), file.package)
    for at, enum in enumerate(file.enum_type):
        yield from of_enum(enum, (5, at), file.package)
    for at, service in enumerate(file.service):
        name = f"{file.package}.{service.name}"
        yield name, texts.get((6, at), "")
        for number, method in enumerate(service.method):
            yield f"{name}.{method.name}", texts.get((6, at, 2, number), "")
