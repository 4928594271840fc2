"""Certificates: which of them may call what, at the services' own ports where no edge stands before them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf.descriptor import MethodDescriptor

from local import issuer
from tests.support import hostile
from tests.support.protocols import of, raw, refused
from tests.support.tokens import WRONG, claims
from tests.support.world import IDENTITIES, INTERNAL, NOBODYS, PUBLIC, SERVICES, World, policy

EVERY_SERVICE = sorted(set(SERVICES.values()))


def message(method: MethodDescriptor) -> bytes:
    """A sound request, empty for internal methods: who may not call learns nothing of what is wrong with it."""
    return b"" if method in INTERNAL else hostile.sound_request(method, NOBODYS).SerializeToString()


@pytest.mark.parametrize("method", [*PUBLIC, *INTERNAL], ids=lambda method: method.name)
def test_only_the_identities_of_its_contract_may_call_a_method(world: World, method: MethodDescriptor) -> None:
    """Public ones the edge, internal ones the services that they name; all others are CALLER_NOT_ALLOWED, also with a
    token that opens everything."""
    service = SERVICES[method.containing_service.full_name]
    allowed = set(policy(method).services) or {"edge"}
    metadata = world.metadata("operator", subject=f"identity-{method.name}")
    outcomes = {}
    for identity in IDENTITIES:
        try:
            raw(world.direct(service, identity), method)(message(method), metadata)
            outcomes[identity] = "answered"
        except grpc.RpcError as error:
            outcomes[identity] = of(error).reason
    let_in = {identity for identity, outcome in outcomes.items() if outcome != "CALLER_NOT_ALLOWED"}
    assert let_in == allowed, outcomes
    if method in INTERNAL:
        assert {outcomes[identity] for identity in allowed} == {"REQUEST_INVALID"}


@pytest.mark.parametrize("method", INTERNAL, ids=lambda method: method.name)
def test_an_internal_method_cannot_be_reached_through_the_edge(world: World, method: MethodDescriptor) -> None:
    """It has no route: METHOD_UNKNOWN for every role, as for a name that was made up."""
    for role in ("operator", "compliance", "customer"):
        call = raw(world.mesh.channel, method)
        refusal = refused(lambda call=call, role=role: call(b"", world.metadata(role)))
        assert refusal.is_for("UNIMPLEMENTED", "METHOD_UNKNOWN"), role


def _self_signed(name: str) -> tuple[bytes, bytes]:
    """A certificate that says it is a service, signed by nobody else, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://florin/{name}")]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


@pytest.mark.parametrize("service", EVERY_SERVICE)
@pytest.mark.parametrize("kind", ["none", "self-signed", "plain text"])
def test_without_a_certificate_of_the_mesh_there_is_no_conversation(world: World, service: str, kind: str) -> None:
    """No certificate, one that only claims to be the edge's, no TLS at all: the connection ends before any call."""
    ca = world.mesh.state.ca.read_bytes()
    address = world.address(service)
    if kind == "plain text":
        channel = grpc.insecure_channel(address)
    elif kind == "none":
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca))
    else:
        certificate, key = _self_signed("edge")
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, certificate))
    method = next(one for one in PUBLIC if SERVICES[one.containing_service.full_name] == service)
    with channel:
        refusal = refused(lambda: raw(channel, method)(message(method), world.metadata("operator")))
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "")
        health = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert refused(lambda: health(b"", timeout=5)).code == "UNAVAILABLE"


@pytest.mark.parametrize("method", PUBLIC, ids=lambda method: method.name)
def test_a_service_believes_no_token_that_the_edge_would_not(world: World, method: MethodDescriptor) -> None:
    """Forged, expired, not yet valid, unsigned, key-confused: TOKEN_INVALID in one form at the service itself."""
    call = raw(world.direct(SERVICES[method.containing_service.full_name], "edge"), method)
    texts = set()
    for kind, forge in WRONG.items():
        metadata = [("authorization", f"Bearer {forge(world.mesh.state)}")]
        refusal = refused(lambda metadata=metadata: call(message(method), metadata))
        assert refusal.is_for("UNAUTHENTICATED", "TOKEN_INVALID"), kind
        texts.add((refusal.message, json.dumps(refusal.metadata)))
    for metadata in ([], [("authorization", "Basic b3BlcmF0b3I6")], [("authorization", "Bearer ")]):
        refusal = refused(lambda metadata=metadata: call(message(method), metadata))
        assert refusal.is_for("UNAUTHENTICATED", "TOKEN_INVALID")
        texts.add((refusal.message, json.dumps(refusal.metadata)))
    assert len(texts) == 1
    elsewhere = issuer.sign(world.mesh.state, claims(aud="another-bank"))
    metadata = [("authorization", f"Bearer {elsewhere}")]
    assert refused(lambda: call(message(method), metadata)).is_for("PERMISSION_DENIED", "AUDIENCE_WRONG")
