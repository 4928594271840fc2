"""Writes Envoy's configuration from the template beside it and from the contracts; it decides no policy of its own.

What depends on a contract is made from the descriptors: the routes with their deadlines and retries, the scopes that
each method asks for, the class of rate limit, the REST mapping. Internal services have no route.
Run it by its path, or load it by its path and call `render`.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

# Its modules stand beside it: this folder is no package, because the wheel with the program has that name.
if str(Path(__file__).parent) not in sys.path:
    sys.path.append(str(Path(__file__).parent))

from edge_arguments import parse_canaries, parse_upstreams, parser
from edge_contracts import Contracts, load_contracts, routes, scope_policies, stats_services
from edge_refusals import replies_source
from edge_settings import (
    SERVICES,
    EdgeError,
    EdgeSettings,
    access_log,
    bucket,
    certificate,
    clusters,
    cross_origin,
    keys,
    loopback,
    socket_address,
    stats_listener,
    subject_buckets,
    token_rules,
    tracing,
)

__all__ = ["EdgeError", "EdgeSettings", "load_contracts", "main", "render"]

TEMPLATE = Path(__file__).with_name("edge.yaml")


def render(settings: EdgeSettings, contracts: Contracts | None = None) -> str:
    """The whole configuration as JSON, which Envoy reads as it reads YAML. Raises EdgeError."""
    contracts = contracts or load_contracts()
    missing = [service for service in SERVICES if not settings.upstreams.get(service)]
    if missing:
        raise EdgeError(f"No upstream is given for {', '.join(missing)}.")
    longest_ms = max(method.deadline_ms for method in contracts.methods)
    remote_keys, local_keys = keys(settings)
    values: dict[str, Any] = {
        "admin_address": socket_address(loopback(settings.admin)),
        "listen_address": socket_address(settings.listen),
        "server_certificates": [certificate(settings.tls_cert, settings.tls_key)],
        "request_timeout": f"{longest_ms / 1000:g}s",
        "streams_per_connection": settings.streams_per_connection,
        "access_log": [access_log(settings.access_log)],
        "tracing": tracing(settings),
        "replies": replies_source(contracts),
        "address_total_bucket": bucket(settings.rate_total),
        "address_bucket": bucket(settings.rate_address),
        "body_bytes": settings.body_bytes,
        "response_bytes": settings.response_bytes,
        "heap_bytes": settings.heap_bytes,
        "connections": settings.connections,
        "issuer": settings.issuer,
        "audience": settings.audience,
        "remote_keys": remote_keys,
        "local_keys": local_keys,
        "stats_listener": stats_listener(settings),
        "token_rules": token_rules(settings),
        "public_descriptors": base64.b64encode(contracts.public_descriptors).decode(),
        "public_services": contracts.services,
        "scope_policies": scope_policies(contracts),
        "subject_total_bucket": bucket(settings.rate_total),
        "subject_buckets": subject_buckets(settings),
        "stats_services": stats_services(contracts),
        "cross_origin": cross_origin(settings),
        "routes": routes(contracts),
        "clusters": list(clusters(settings)),
    }
    filled = _fill(yaml.safe_load(TEMPLATE.read_text()), values)
    return json.dumps(filled, indent=1) + "\n"


def _fill(node: Any, values: dict[str, Any]) -> Any:
    """The template with every ${name} replaced; a key or an item whose value becomes None is left out."""
    if isinstance(node, dict):
        filled = {key: _fill(value, values) for key, value in node.items()}
        return {key: value for key, value in filled.items() if value is not None}
    if isinstance(node, list):
        return [value for value in (_fill(item, values) for item in node) if value is not None]
    if isinstance(node, str) and node.startswith("${") and node.endswith("}"):
        return values[node[2:-1]]
    return node


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit code is 2 for settings that cannot be used."""
    options = vars(parser().parse_args(arguments))
    output = options.pop("output")
    try:
        upstreams = parse_upstreams(options.pop("upstream"))
        options["canaries"] = parse_canaries(options["canaries"])
        options["cors_origins"] = tuple(options["cors_origins"])
        text = render(EdgeSettings(upstreams=upstreams, **options))
        if output == "-":
            sys.stdout.write(text)
        else:
            Path(output).write_text(text)
    except (EdgeError, OSError) as error:
        print(f"envoy/generate.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
