"""Reads what the contracts and a service's policy.yaml declare; it enforces nothing itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources

import yaml
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from florin.common.v1 import policy_pb2


class PolicyMismatch(Exception):
    """The contracts and a service's policy or code do not fit; the service must not start."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method with what its contract says of it."""

    name: str
    """The full method, for example "/florin.accounts.v1.AccountService/GetAccount"."""
    descriptor: MethodDescriptor
    policy: policy_pb2.MethodPolicy

    @property
    def is_internal(self) -> bool:
        """Whether only services may call it."""
        return not self.policy.scopes


@dataclass(frozen=True, slots=True)
class ServicePolicy:
    """A service's policy.yaml: one declaration that NATS, PostgreSQL, the network and the service itself go by."""

    service: str
    publishes: tuple[str, ...] = ()
    consumes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Publisher → the subjects that the durable consumer receives: all of an aggregate's where every one is needed."""
    calls: tuple[str, ...] = ()
    """The services it calls over gRPC."""
    callers: tuple[str, ...] = ()
    """The identities that may connect to it."""
    append_only: tuple[str, ...] = ()
    """Tables that the runtime role may only read and add to."""


def methods(services: Iterable[str]) -> dict[str, Method]:
    """Every method of the services by its full name. Raises PolicyMismatch if one has no policy or a senseless one."""
    found: dict[str, Method] = {}
    for service in services:
        descriptor: ServiceDescriptor = descriptor_pool.Default().FindServiceByName(service)
        for method in descriptor.methods:
            policy = method.GetOptions().Extensions[policy_pb2.policy]
            name = f"/{service}/{method.name}"
            if bool(policy.scopes) == bool(policy.services):
                raise PolicyMismatch(f"{name} needs a policy with either scopes or services")
            found[name] = Method(name=name, descriptor=method, policy=policy)
    return found


def load(package: str) -> ServicePolicy:
    """Reads `<package>/policy.yaml`. Raises PolicyMismatch when it names another service or unknown keys."""
    raw = yaml.safe_load((resources.files(package) / "policy.yaml").read_text())
    known = {"service", "publishes", "consumes", "calls", "callers", "tables"}
    unknown = set(raw) - known
    if unknown or raw.get("service") != package:
        raise PolicyMismatch(f"{package}/policy.yaml: unknown keys {sorted(unknown)} or another service's name")
    return ServicePolicy(
        service=package,
        publishes=tuple(raw.get("publishes") or ()),
        consumes={name: tuple(subjects) for name, subjects in (raw.get("consumes") or {}).items()},
        calls=tuple(raw.get("calls") or ()),
        callers=tuple(raw.get("callers") or ()),
        append_only=tuple((raw.get("tables") or {}).get("append_only") or ()),
    )


def event_policies(package: str) -> dict[str, policy_pb2.EventPolicy]:
    """Subject → policy of every event that a service's events.proto declares."""
    import importlib

    module = importlib.import_module(f"florin.{package}.v1.events_pb2")
    found: dict[str, policy_pb2.EventPolicy] = {}
    for message in module.DESCRIPTOR.message_types_by_name.values():
        policy = message.GetOptions().Extensions[policy_pb2.event]
        if policy.subject:
            found[policy.subject] = policy
    return found


def check(policy: ServicePolicy, found: Mapping[str, Method]) -> None:
    """Refuses a start where the service's policy and the contracts do not fit. Raises PolicyMismatch."""
    declared = set(event_policies(policy.service))
    if declared != set(policy.publishes):
        odd = sorted(declared.symmetric_difference(policy.publishes))
        raise PolicyMismatch(f"{policy.service}/policy.yaml and events.proto differ in what is published: {odd}")
    needed = {caller for method in found.values() for caller in method.policy.services}
    if any(not method.is_internal for method in found.values()):
        needed.add("edge")
    if needed != set(policy.callers):
        raise PolicyMismatch(
            f"{policy.service}/policy.yaml lets in {sorted(policy.callers)}; the contracts need {sorted(needed)}"
        )
