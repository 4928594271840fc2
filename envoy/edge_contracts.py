"""What the edge does because a contract says so: routes, deadlines, retries, scopes; it knows no deployment."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_settings import REFLECTION, TYPE, EdgeError

GENERATED = Path(__file__).resolve().parent.parent / "build" / "gen"
RATES = {1: "READ", 2: "WRITE", 3: "BATCH", 4: "ADMIN"}


@dataclass(frozen=True, slots=True)
class PublicMethod:
    """A method that users may call, as its contract has it."""

    service: str
    """Who serves it, for example accounts."""
    full_service: str
    name: str
    scopes: tuple[str, ...]
    rate: str
    deadline_ms: int
    idempotent: bool
    client_streaming: bool
    server_streaming: bool

    @property
    def path(self) -> str:
        """Its path in gRPC."""
        return f"/{self.full_service}/{self.name}"


@dataclass(frozen=True, slots=True)
class Contracts:
    """What the generator takes from the descriptors."""

    methods: tuple[PublicMethod, ...]
    public_descriptors: bytes
    titles: dict[str, str] = field(default_factory=dict)
    """Reason → the first sentence of its comment."""

    @property
    def services(self) -> list[str]:
        """The full names of the public services."""
        return sorted({method.full_service for method in self.methods})


def load_contracts(generated: Path = GENERATED) -> Contracts:
    """Reads what `make gen` wrote. Raises EdgeError when it did not."""
    if str(generated) not in sys.path:
        sys.path.insert(0, str(generated))
    try:
        from google.protobuf import descriptor_pb2

        from florin.common.v1 import policy_pb2

        everything = descriptor_pb2.FileDescriptorSet.FromString((generated / "descriptors.binpb").read_bytes())
        public = (generated / "public.binpb").read_bytes()
    except (ImportError, FileNotFoundError) as error:
        raise EdgeError(f"The generated contracts are not in {generated} ({error}); run `make gen`.") from None
    methods = []
    for file in everything.file:
        for service in file.service:
            for method in service.method:
                policy = method.options.Extensions[policy_pb2.policy]
                if not policy.scopes:  # internal: no route, no scope, no description
                    continue
                methods.append(
                    PublicMethod(
                        service=file.package.split(".")[1],
                        full_service=f"{file.package}.{service.name}",
                        name=method.name,
                        scopes=tuple(policy.scopes),
                        rate=RATES[policy.rate],
                        deadline_ms=policy.deadline_ms,
                        idempotent=policy.idempotent,
                        client_streaming=method.client_streaming,
                        server_streaming=method.server_streaming,
                    )
                )
    return Contracts(tuple(methods), public, _titles(everything))


def _titles(everything: Any) -> dict[str, str]:
    """The first sentence of each reason's comment in errors.proto."""
    titles: dict[str, str] = {}
    for file in everything.file:
        if file.name != "florin/common/v1/errors.proto":
            continue
        position = next(i for i, enum in enumerate(file.enum_type) if enum.name == "Reason")
        for location in file.source_code_info.location:
            # 5 is the enums of a file, 2 the values of an enum (descriptor.proto).
            if len(location.path) == 4 and list(location.path[:3]) == [5, position, 2]:
                name = file.enum_type[position].value[location.path[3]].name.removeprefix("REASON_")
                text = " ".join(location.leading_comments.split())
                titles[name] = re.split(r"(?<=\.) |; ", text)[0].rstrip(".") + "."
    return titles


def routes(contracts: Contracts) -> list[dict[str, Any]]:
    """One route a method by its exact path, reflection, and an end for everything else."""
    made = [_route(method) for method in contracts.methods]
    made += [
        {
            "name": service,
            "match": {"prefix": f"/{service}/", "grpc": {}},
            "metadata": {"filter_metadata": {"florin": {"rate": "READ"}}},
            "route": {"cluster": "reflection", "timeout": "0s", "max_stream_duration": _stream_limit(60_000)},
        }
        for service in REFLECTION
    ]
    # REST begins here (cross-origin rules need a route with a cluster); the transcoder turns it into a method's route,
    # or refuses it. What reaches the scopes with this path all the same is refused there: it is no method.
    made.append({"name": "rest", "match": {"prefix": "/v1/"}, "route": {"cluster": "reflection", "timeout": "0s"}})
    nothing = {"status": 404, "body": {"inline_string": "There is no such method."}}
    # Nothing stands behind this route, so it asks for no scope; a real route without a policy stays closed.
    no_scopes = {"envoy.filters.http.rbac": {"@type": f"{TYPE}extensions.filters.http.rbac.v3.RBACPerRoute"}}
    made.append(
        {"name": "nothing", "match": {"prefix": "/"}, "direct_response": nothing, "typed_per_filter_config": no_scopes}
    )
    return made


def _route(method: PublicMethod) -> dict[str, Any]:
    action: dict[str, Any] = {
        "cluster": method.service,
        "timeout": "0s",
        "max_stream_duration": _stream_limit(method.deadline_ms),
    }
    streaming = method.client_streaming or method.server_streaming
    if method.server_streaming:
        # A quiet stream of events is not a dead one: HTTP/2 pings find those. Where the caller speaks as well, the
        # service ends what is idle, before this does.
        action["idle_timeout"] = _IDLE_BOTH_WAYS if method.client_streaming else "0s"
        # The service ends a stream at its caller's deadline, with a status. Envoy could only break it off: once a
        # stream has begun there is no other answer left to it.
        del action["max_stream_duration"]["grpc_timeout_header_max"]
    if method.idempotent and not streaming:
        action["retry_policy"] = dict(_RETRIES)
        if method.deadline_ms <= _HEDGED_DEADLINE_MS_MAX and method.rate != "ADMIN":
            # A replica that stands still is not felt: after a quarter of the time (meshkit/interceptors.py reckons with
            # it) another one is asked as well, and whoever answers first is heard.
            action["retry_policy"]["per_try_timeout"] = f"{method.deadline_ms / 4000:g}s"
            action["hedge_policy"] = {"hedge_on_per_try_timeout": True}
    route: dict[str, Any] = {
        "name": method.path,
        "match": {"path": method.path},
        "metadata": {"filter_metadata": {"florin": {"rate": method.rate}}},
        "route": action,
    }
    if method.client_streaming:
        # An upload is many messages: each is limited by gRPC at the service, the whole by its deadline.
        unlimited = {"@type": f"{TYPE}config.route.v3.FilterConfig", "disabled": True}
        route["typed_per_filter_config"] = {"envoy.filters.http.body_size_limit": unlimited}
    return route


_IDLE_BOTH_WAYS = "300s"
_HEDGED_DEADLINE_MS_MAX = 5000
"""What may take longer is slow by nature: a batch, or a wait for something to happen. Nor are administrative calls
asked twice: a secret is in the first answer alone."""

# A call is sent again when its replica is gone in the middle of it. What it did is not done twice: the method is
# idempotent, by its request_id or by this call's x-request-id, which the services take where there is none.
_RETRIES: dict[str, Any] = {
    "retry_on": "unavailable,refused-stream,connect-failure,reset",
    "num_retries": 2,
    "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {"@type": f"{TYPE}extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
        }
    ],
    # A dead replica has the fewest calls, so it is drawn three times of four. With thirty more draws the other one of
    # two is missed once in seven thousand times.
    "host_selection_retry_max_attempts": 30,
}


def _stream_limit(deadline_ms: int) -> dict[str, str]:
    """The contract's deadline and a little more: the service answers first, with the better reason. 0 is no limit."""
    limit = f"{(deadline_ms + 200) / 1000:g}s" if deadline_ms else "0s"
    return {
        "max_stream_duration": limit,
        "grpc_timeout_header_max": limit,
        "grpc_timeout_header_offset": "0.01s",
    }


def scope_policies(contracts: Contracts) -> dict[str, Any]:
    """For each method the scopes of which a token must carry one. What is not listed is refused."""
    policies: dict[str, Any] = {
        method.path: {
            "permissions": [{"url_path": {"path": {"exact": method.path}}}],
            "principals": [_has_scope(scope) for scope in method.scopes],
        }
        for method in contracts.methods
    }
    policies["reflection"] = {
        "permissions": [{"url_path": {"path": {"prefix": f"/{service}/"}}} for service in REFLECTION],
        # The token, if one is asked for, was checked before; any scope will do.
        "principals": [{"any": True}],
    }
    return policies


def _has_scope(scope: str) -> dict[str, Any]:
    return {
        "sourced_metadata": {
            "metadata_source": "DYNAMIC",
            "metadata_matcher": {
                "filter": "envoy.filters.http.jwt_authn",
                "path": [{"key": "claims"}, {"key": "scope"}],
                "value": {"list_match": {"one_of": {"string_match": {"exact": scope}}}},
            },
        }
    }


def stats_services(contracts: Contracts) -> list[dict[str, Any]]:
    """The methods that have statistics of their own."""
    return [
        {"name": service, "method_names": [m.name for m in contracts.methods if m.full_service == service]}
        for service in contracts.services
    ]
