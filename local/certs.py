"""The mesh's own certificate authority and the identities that it signs; keys never leave the state folder."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from local.state import State, write_private

IDENTITIES = ("accounts", "transactions", "compliance", "notifications", "checker", "edge", "nats", "operator")
_LIFETIME = timedelta(days=365)
_RENEW_BEFORE = timedelta(days=30)


def ensure(state: State, hosts: Mapping[str, Sequence[str]] | None = None) -> None:
    """Makes the authority at first start, and every identity that is missing, damaged or about to expire.

    `hosts` are the identities to make, each with the DNS names that it is reached by beside its own; those of a mesh
    on one machine if absent.
    """
    authority, key = _authority(state)
    for identity, names in (hosts or dict.fromkeys(IDENTITIES, ())).items():
        certificate = _usable(*state.certificate(identity))
        if certificate is None or not _signed_by(certificate, authority) or not _is_reached_by(certificate, names):
            _issue(state, identity, names, authority, key)


def _authority(state: State) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key_path = state.secrets / "ca-key.pem"
    present = _usable(state.ca, key_path)
    if present is not None:
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{key_path} holds another kind of key")
        return present, key
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Florin local mesh")])
    certificate = (
        _builder(name, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_private(key_path, _pem(key))
    write_private(state.ca, certificate.public_bytes(serialization.Encoding.PEM).decode())
    state.ca.chmod(0o644)
    return certificate, key


def _issue(
    state: State,
    identity: str,
    hosts: Sequence[str],
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity)])
    names = [
        x509.UniformResourceIdentifier(f"spiffe://florin/{identity}"),
        x509.DNSName(identity),
        x509.DNSName("localhost"),
        *(x509.DNSName(host) for host in hosts),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    certificate = (
        _builder(name, authority.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    certificate_path, key_path = state.certificate(identity)
    write_private(key_path, _pem(key))
    write_private(certificate_path, certificate.public_bytes(serialization.Encoding.PEM).decode())


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _LIFETIME)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _usable(certificate_path: Path, key_path: Path) -> x509.Certificate | None:
    """A certificate that lives on for a while and fits its key; None where a file is missing or damaged.

    Nothing is lost by making them anew: they are this mesh's own, and all are read at a start.
    """
    try:
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    except (FileNotFoundError, ValueError):
        return None
    fits = certificate.public_key() == key.public_key() and _names_its_key(certificate)
    return certificate if fits and certificate.not_valid_after_utc - datetime.now(UTC) >= _RENEW_BEFORE else None


def _names_its_key(certificate: x509.Certificate) -> bool:
    """What Python takes no certificate without, from 3.13 on (RFC 5280, 4.2.1.2)."""
    try:
        certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return False
    return True


def _is_reached_by(certificate: x509.Certificate, hosts: Sequence[str]) -> bool:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(hosts) <= set(names.get_values_for_type(x509.DNSName))


def _signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
