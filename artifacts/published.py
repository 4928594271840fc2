"""The published part of the contracts as a descriptor set with its comments; it takes out and adds nothing.

What services alone call, what only they are told and Florin's own options are left out. Comments are found by paths of
positions, so the paths are moved along with what stood behind something that was taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from google.protobuf import descriptor_pb2

from florin.common.v1 import policy_pb2

ALWAYS = ("google/rpc/error_details.proto", "florin/common/v1/errors.proto")
"""What a refusal carries, which no method names."""
# Fields of descriptor.proto by which comments are found: a file's imports, messages and services, a service's methods,
# and the options of a message and of a method.
_IMPORTS, _MESSAGES, _SERVICES, _METHODS = 3, 4, 6, 2
_MESSAGE_OPTIONS, _METHOD_OPTIONS = 7, 4

Set = descriptor_pb2.FileDescriptorSet
File = descriptor_pb2.FileDescriptorProto


def published(contracts: Set) -> Set:
    """The published part of all contracts, imports first."""
    files = {file.name: _published_file(file) for file in contracts.file}
    needed: set[str] = set()
    pending = [name for name, file in files.items() if name.endswith("/events.proto") or file.service]
    pending += ALWAYS
    while pending:
        name = pending.pop()
        if name not in needed:
            needed.add(name)
            pending.extend(files[name].dependency)
    return Set(file=[file for name, file in files.items() if name in needed])


def without(contracts: Set, *imports: str) -> Set:
    """The same contracts without the options that these imports declare: for stubs that need none of them."""
    made = Set(file=[_copy(file) for file in contracts.file if file.name not in imports])
    for file in made.file:
        moved = _drop_imports(file, imports)
        _move_comments(file, _Kept(imports=moved))
        if file.name.startswith("florin/"):
            for options in _options(file):
                _clear_extensions(options)
    return made


def _copy(file: File) -> File:
    return File.FromString(file.SerializeToString())


def _published_file(file: File) -> File:
    made = _copy(file)
    messages = _keep(made.message_type, _is_published_message)
    services = _keep(made.service, lambda service: any(_is_public(method) for method in service.method))
    methods = {new: _keep(service.method, _is_public) for new, service in enumerate(made.service)}
    imports = _drop_imports(made, (policy_pb2.DESCRIPTOR.name,))
    for message in made.message_type:
        message.options.ClearExtension(policy_pb2.event)
    for service in made.service:
        for method in service.method:
            method.options.ClearExtension(policy_pb2.policy)
    _move_comments(made, _Kept(imports, messages, services, methods))
    return made


def _is_public(method: descriptor_pb2.MethodDescriptorProto) -> bool:
    return bool(method.options.Extensions[policy_pb2.policy].scopes)


def _is_published_message(message: descriptor_pb2.DescriptorProto) -> bool:
    event = message.options.Extensions[policy_pb2.event]
    return not event.subject or event.public


def _keep[T](items: Sequence[T], wanted: Callable[[T], bool]) -> dict[int, int]:
    """Takes out of a repeated field what is not wanted; gives old → new position of what stays."""
    moved: dict[int, int] = {}
    for old, item in enumerate(list(items)):
        if wanted(item):
            moved[old] = len(moved)
    for old in reversed(range(len(items))):
        if old not in moved:
            del items[old]  # type: ignore[attr-defined]
    return moved


def _drop_imports(file: File, names: Sequence[str]) -> dict[int, int]:
    return _keep(file.dependency, lambda name: name not in names)


@dataclass(frozen=True, slots=True)
class _Kept:
    """Old → new positions of what a file keeps; None where it keeps all."""

    imports: dict[int, int] | None = None
    messages: dict[int, int] | None = None
    services: dict[int, int] | None = None
    methods: dict[int, dict[int, int]] | None = None
    """By the new position of their service."""

    def moved(self, path: list[int]) -> list[int] | None:
        """Where a comment's path leads now; None if what it leads to is gone."""
        path = list(path)
        tables = {_IMPORTS: self.imports, _MESSAGES: self.messages, _SERVICES: self.services}
        table = tables.get(path[0]) if len(path) > 1 else None
        if table is not None:
            if path[1] not in table:
                return None
            path[1] = table[path[1]]
        if self.methods is not None and path[:1] == [_SERVICES] and len(path) > 3 and path[2] == _METHODS:
            methods = self.methods[path[1]]
            if path[3] not in methods:
                return None
            path[3] = methods[path[3]]
        return path


def _move_comments(file: File, kept: _Kept) -> None:
    locations = []
    for location in file.source_code_info.location:
        path = kept.moved(list(location.path))
        if path is not None and not _is_of_own_option(path):
            locations.append(descriptor_pb2.SourceCodeInfo.Location.FromString(location.SerializeToString()))
            locations[-1].path[:] = path
    del file.source_code_info.location[:]
    file.source_code_info.location.extend(locations)


def _is_of_own_option(path: list[int]) -> bool:
    if path[:1] == [_SERVICES]:
        return path[4:6] == [_METHOD_OPTIONS, policy_pb2.POLICY_FIELD_NUMBER]
    return path[:1] == [_MESSAGES] and path[2:4] == [_MESSAGE_OPTIONS, policy_pb2.EVENT_FIELD_NUMBER]


def _options(file: File) -> Iterator[descriptor_pb2.MessageOptions]:
    """All options of a file that can hold an extension, of whatever kind."""

    def of_message(message: descriptor_pb2.DescriptorProto) -> Iterator[descriptor_pb2.MessageOptions]:
        yield message.options
        for field in message.field:
            yield field.options  # type: ignore[misc]
        for oneof in message.oneof_decl:
            yield oneof.options  # type: ignore[misc]
        for nested in message.nested_type:
            yield from of_message(nested)

    for message in file.message_type:
        yield from of_message(message)
    for service in file.service:
        for method in service.method:
            yield method.options  # type: ignore[misc]


def _clear_extensions(options: descriptor_pb2.MessageOptions) -> None:
    for field, _ in options.ListFields():
        if field.is_extension:
            options.ClearExtension(field)  # type: ignore[arg-type]
