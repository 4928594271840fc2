"""What a deployment chooses about the edge, and what follows from that alone; it reads no contract."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

SERVICES = ("accounts", "transactions", "compliance", "notifications")
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
TYPE = "type.googleapis.com/envoy."


class EdgeError(Exception):
    """A setting that cannot be used; its text is one clear sentence."""


@dataclass(frozen=True, slots=True)
class Canary:
    """Replicas of another version that get a share of the calls."""

    percent: int
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """What a deployment chooses. Addresses are HOST:PORT; rates are calls a second of one subject."""

    listen: str
    admin: str
    upstreams: dict[str, tuple[str, ...]]
    """Service → its replicas."""
    issuer: str
    tls_cert: str
    tls_key: str
    ca: str
    client_cert: str
    client_key: str
    issuer_jwks: str | None = None
    """Where the issuer's keys are fetched from; either this or `issuer_jwks_file`."""
    issuer_jwks_file: str | None = None
    """A file with the issuer's keys, read at the start."""
    audience: str = "florin"
    issuer_ca: str = "/etc/ssl/certs/ca-certificates.crt"
    """What an https issuer's certificate must come from; Debian's place of the system's authorities."""
    access_log: str = "/dev/stdout"
    otlp: str | None = None
    trace_percent: float = 1.0
    cors_origins: tuple[str, ...] = ()
    rate_read: int = 2000
    rate_write: int = 2000
    rate_batch: int = 100
    rate_admin: int = 50
    rate_address: int = 5000
    """Calls a second from one address, whatever their tokens."""
    rate_total: int = 100_000
    """Calls a second from all."""
    body_bytes: int = 4 * 1024 * 1024
    """Of a request that is not a stream; gRPC's own limit at the services."""
    response_bytes: int = 16 * 1024 * 1024
    heap_bytes: int = 1024 * 1024 * 1024
    connections: int = 20_000
    streams_per_connection: int = 256
    canaries: Mapping[str, Canary] = field(default_factory=dict)
    """Service → its version on trial."""
    open_reflection: bool = False
    """Whether reflection is answered without a token."""
    stats: str | None = None
    """Where /stats/prometheus of the admin interface, and nothing else of it, is shown to the inside."""


def keys(settings: EdgeSettings) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The issuer's keys as Envoy's token filter has them, from an address or from a file. Raises EdgeError."""
    if (settings.issuer_jwks is None) == (settings.issuer_jwks_file is None):
        raise EdgeError("Give exactly one of --issuer-jwks and --issuer-jwks-file.")
    if settings.issuer_jwks is None:
        return None, {"filename": settings.issuer_jwks_file}
    fetched = {
        "http_uri": {"uri": settings.issuer_jwks, "cluster": "issuer", "timeout": "2s"},
        "cache_duration": "300s",
        # The edge starts without its issuer, and asks again every 5 s until it answers.
        "async_fetch": {"fast_listener": True, "failed_refetch_duration": "5s"},
        "retry_policy": {"num_retries": 3},
    }
    return fetched, None


def stats_listener(settings: EdgeSettings) -> dict[str, Any] | None:
    """A listener for Prometheus; None where nobody watches. The admin interface itself never leaves the machine."""
    if settings.stats is None:
        return None
    router = {"@type": f"{TYPE}extensions.filters.http.router.v3.Router"}
    manager = {
        "@type": f"{TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "stats",
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "stats",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {
                                "path": "/stats/prometheus",
                                "headers": [{"name": ":method", "string_match": {"exact": "GET"}}],
                            },
                            "route": {"cluster": "admin", "timeout": "10s"},
                        }
                    ],
                }
            ]
        },
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": "stats", "address": socket_address(settings.stats), "filter_chains": [chain]}


def token_rules(settings: EdgeSettings) -> list[dict[str, Any]]:
    """Everything asks for a token; what the contracts look like may be open."""
    open_paths = [{"match": {"prefix": f"/{service}/"}} for service in REFLECTION] if settings.open_reflection else []
    return [*open_paths, {"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}]


def subject_buckets(settings: EdgeSettings) -> list[dict[str, Any]]:
    """A bucket for each class of rate, tenant and subject."""
    rates = {
        "READ": settings.rate_read,
        "WRITE": settings.rate_write,
        "BATCH": settings.rate_batch,
        "ADMIN": settings.rate_admin,
    }
    # An entry without a value is a bucket for each value.
    return [
        {
            "entries": [{"key": "rate", "value": rate}, {"key": "tenant"}, {"key": "subject"}],
            "token_bucket": bucket(calls),
        }
        for rate, calls in rates.items()
    ]


def clusters(settings: EdgeSettings) -> Iterator[dict[str, Any]]:
    """One cluster a service, one of all for reflection, the issuer, and the traces' collector."""
    for service in SERVICES:
        replicas = settings.upstreams[service]
        canary = settings.canaries.get(service)
        tried = canary.addresses if canary is not None else ()
        made = _service_cluster(settings, service, [*replicas, *tried], [service])
        yield _with_canary(made, canary) if canary is not None else made
    # Every service describes the whole public contract, so reflection survives the loss of any of them.
    everyone = [address for service in SERVICES for address in settings.upstreams[service]]
    yield _service_cluster(settings, "reflection", everyone, list(SERVICES))
    if settings.issuer_jwks is not None:
        yield _issuer_cluster(settings, settings.issuer_jwks)
    if settings.otlp is not None:
        yield {**_cluster("traces", [settings.otlp]), **_http2()}
    if settings.stats is not None:
        yield _cluster("admin", [settings.admin])


def _issuer_cluster(settings: EdgeSettings, address: str) -> dict[str, Any]:
    issuer = urlsplit(address)
    if issuer.scheme not in {"http", "https"} or not issuer.hostname:
        raise EdgeError(f"--issuer-jwks must be an http or https address, not {address!r}.")
    if issuer.scheme == "http" and not (issuer.hostname == "localhost" or _is_loopback(issuer.hostname)):
        # Whoever could change the answer on its way could sign tokens of anybody.
        raise EdgeError(f"--issuer-jwks must be https on another host, not {address!r}.")
    port = issuer.port or (443 if issuer.scheme == "https" else 80)
    cluster = _cluster("issuer", [f"{issuer.hostname}:{port}"])
    if issuer.scheme == "https":
        roots = {"trusted_ca": {"filename": settings.issuer_ca}}
        names = [{"san_type": "DNS", "matcher": {"exact": issuer.hostname}}]
        context = {"validation_context": {**roots, "match_typed_subject_alt_names": names}}
        cluster["transport_socket"] = _tls({"sni": issuer.hostname, "common_tls_context": context})
    return cluster


def _service_cluster(
    settings: EdgeSettings, name: str, addresses: Sequence[str], identities: Sequence[str]
) -> dict[str, Any]:
    names = [{"san_type": "URI", "matcher": {"exact": f"spiffe://florin/{identity}"}} for identity in identities]
    context = {
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificates": [certificate(settings.client_cert, settings.client_key)],
        "validation_context": {"trusted_ca": {"filename": settings.ca}, "match_typed_subject_alt_names": names},
    }
    threshold = {
        "max_connections": 200,
        "max_pending_requests": 1024,
        "max_requests": 4096,
        # With few callers nearly all of their calls may hang at the one replica that is lost.
        "retry_budget": {"budget_percent": {"value": 20}, "min_retry_concurrency": 16},
        "track_remaining": True,
    }
    return {
        **_cluster(name, addresses),
        **_http2(),
        "lb_policy": "LEAST_REQUEST",
        "per_connection_buffer_limit_bytes": 32768,
        "transport_socket": _tls({"common_tls_context": context}),
        "circuit_breakers": {"thresholds": [threshold]},
        # Without a healthy replica a call is refused at once, with the time after which to try again. What is learned
        # of a replica counts at once too: gathered for a second, as is usual, its return could be noticed that late.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        # A replica that fails five calls in a row is left alone for a while; at most half of them at a time.
        "outlier_detection": {
            "consecutive_5xx": 5,
            "consecutive_gateway_failure": 5,
            "interval": "1s",
            "base_ejection_time": "5s",
            "max_ejection_percent": 50,
        },
        # One that says it is not ready is believed at once; one that says nothing may only be busy.
        "health_checks": [
            {
                "timeout": "2s",
                "interval": "1s",
                "interval_jitter": "0.2s",
                "no_traffic_interval": "1s",
                "unhealthy_interval": "0.5s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                # The replica as a whole: one of before does not know the name of a service that was added.
                "grpc_health_check": {},
            }
        ],
    }


def _with_canary(cluster: dict[str, Any], canary: Canary) -> dict[str, Any]:
    """A cluster whose last addresses are the canary's, as two weighed groups. What is not healthy weighs nothing, and a
    call that is sent again may go to the other group: a version that fails is left alone before anybody takes it back.
    """
    every = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    first = len(every) - len(canary.addresses)
    groups = [
        {"locality": {"sub_zone": name}, "load_balancing_weight": weight, "lb_endpoints": endpoints}
        for name, weight, endpoints in (
            ("stable", 100 - canary.percent, every[:first]),
            ("canary", canary.percent, every[first:]),
        )
    ]
    return {
        **cluster,
        "load_assignment": {"cluster_name": cluster["name"], "endpoints": groups},
        "common_lb_config": {**cluster["common_lb_config"], "locality_weighted_lb_config": {}},
    }


def _cluster(name: str, addresses: Sequence[str]) -> dict[str, Any]:
    static = all(_is_ip(_split(address)[0]) for address in addresses)
    endpoints = [{"endpoint": {"address": socket_address(address)}} for address in addresses]
    made: dict[str, Any] = {
        "name": name,
        "type": "STATIC" if static else "STRICT_DNS",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }
    if not static:
        made |= {"dns_refresh_rate": "5s", "dns_lookup_family": "V4_PREFERRED"}
    return made


def _http2() -> dict[str, Any]:
    protocol = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = {
        "initial_stream_window_size": 65536,
        "initial_connection_window_size": 1048576,
        # A host that is gone without a word is noticed within some ten seconds, and its calls are sent elsewhere.
        "connection_keepalive": {"interval": "5s", "timeout": "3s"},
    }
    explicit = {
        "@type": f"type.googleapis.com/{protocol}",
        "explicit_http_config": {"http2_protocol_options": options},
        # Before the services end it, after 27 s at least: who closes while the other writes resets the connection,
        # and what of an answer was on its way is lost. The edge closes when it has read the last one.
        "common_http_protocol_options": {"max_connection_duration": "20s"},
    }
    return {"typed_extension_protocol_options": {protocol: explicit}}


def _tls(context: dict[str, Any]) -> dict[str, Any]:
    kind = f"{TYPE}extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    return {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": kind, **context}}


def certificate(chain: str, key: str) -> dict[str, Any]:
    """A certificate chain and its key, by file."""
    return {"certificate_chain": {"filename": chain}, "private_key": {"filename": key}}


def access_log(path: str) -> dict[str, Any]:
    """One JSON line a call."""
    claim = "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:claims:{})%"
    # No query strings, no bodies, no tokens: who, what, how it ended, how long it took.
    fields = {
        "time": "%START_TIME%",
        "method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
        "path": "%PATH(NQ:ORIG_OR_PATH)%",
        "route": "%ROUTE_NAME%",
        "protocol": "%PROTOCOL%",
        "status": "%RESPONSE_CODE%",
        # Over REST `grpc_status` is Envoy's guess from the HTTP status; `reason` is the refusal's own.
        "api": "%DYNAMIC_METADATA(envoy.filters.http.lua:kind)%",
        "grpc_status": "%GRPC_STATUS%",
        "reason": "%DYNAMIC_METADATA(envoy.filters.http.lua:reason)%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "flags": "%RESPONSE_FLAGS%",
        "duration_ms": "%DURATION%",
        "upstream": "%UPSTREAM_CLUSTER%",
        "upstream_host": "%UPSTREAM_HOST%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
        "address": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "tenant": claim.format("tenant"),
        "subject": claim.format("sub"),
        "request_id": "%REQ(X-REQUEST-ID)%",
        "trace": "%TRACE_ID%",
    }
    kind = f"{TYPE}extensions.access_loggers.file.v3.FileAccessLog"
    config = {"@type": kind, "path": path, "log_format": {"json_format": fields}}
    return {"name": "envoy.access_loggers.file", "typed_config": config}


def tracing(settings: EdgeSettings) -> dict[str, Any] | None:
    """Where traces go; None without a collector."""
    if settings.otlp is None:
        return None
    exporter = {
        "@type": f"{TYPE}config.trace.v3.OpenTelemetryConfig",
        "service_name": "edge",
        "grpc_service": {"envoy_grpc": {"cluster_name": "traces"}, "timeout": "0.25s"},
    }
    provider = {"name": "envoy.tracers.opentelemetry", "typed_config": exporter}
    return {"provider": provider, "random_sampling": {"value": settings.trace_percent}}


def cross_origin(settings: EdgeSettings) -> dict[str, Any]:
    """What pages of other origins may do."""
    if not settings.cors_origins:
        return {}
    policy = {
        "@type": f"{TYPE}extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"exact": origin} for origin in settings.cors_origins],
        "allow_methods": "GET, POST, PATCH, DELETE, OPTIONS",
        "allow_headers": "authorization, content-type, idempotency-key, grpc-timeout, x-grpc-web, x-user-agent, "
        "traceparent, tracestate",
        "expose_headers": "grpc-status, grpc-message, grpc-status-details-bin, retry-after, x-request-id",
        "max_age": "600",
    }
    return {"envoy.filters.http.cors": policy}


def bucket(calls_per_second: int) -> dict[str, Any]:
    """A bucket that holds one second's calls and is filled ten times a second, so that a burst does not wait long."""
    if calls_per_second < 1:
        raise EdgeError("A rate must be at least one call a second.")
    if calls_per_second % 10:
        return {"max_tokens": calls_per_second, "tokens_per_fill": calls_per_second, "fill_interval": "1s"}
    return {"max_tokens": calls_per_second, "tokens_per_fill": calls_per_second // 10, "fill_interval": "0.1s"}


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) < 65536:
        raise EdgeError(f"{address!r} is not HOST:PORT.")
    return host.strip("[]"), int(port)


def socket_address(address: str) -> dict[str, Any]:
    """HOST:PORT as Envoy has it."""
    host, port = _split(address)
    return {"socket_address": {"address": host, "port_value": port}}


def _is_loopback(host: str) -> bool:
    return _is_ip(host) and ipaddress.ip_address(host).is_loopback


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def loopback(address: str) -> str:
    """The same address. Raises EdgeError when it can be reached from elsewhere."""
    host, _ = _split(address)
    if not _is_loopback(host):
        raise EdgeError(f"--admin must be on loopback, not {address}: it can stop the edge and shows its secrets.")
    return address
