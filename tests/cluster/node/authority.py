"""The node's own certificate authority: Kubernetes knows its parts by the names in their certificates."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME = timedelta(days=2)


class Authority:
    """Signs for one run; everything is in one folder, `NAME.crt` and `NAME.key`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("florin-node", "")
        made = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        )
        self._write("ca", made.sign(self._key, hashes.SHA256()), self._key)

    @property
    def certificate(self) -> Path:
        """What verifies all others."""
        return self._folder / "ca.crt"

    def issue(
        self, name: str, common_name: str, organization: str = "", *, addresses: Sequence[str] = ()
    ) -> tuple[Path, Path]:
        """A certificate for servers and clients, with its key; `addresses` are names and IP addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        made = self._builder(_name(common_name, organization), key).add_extension(
            x509.ExtendedKeyUsage(uses), critical=False
        )
        if addresses:
            made = made.add_extension(x509.SubjectAlternativeName([_address(one) for one in addresses]), critical=False)
        self._write(name, made.sign(self._key, hashes.SHA256()), key)
        return self._folder / f"{name}.crt", self._folder / f"{name}.key"

    def kubeconfig(self, name: str, server: str, common_name: str, organization: str = "") -> Path:
        """How a part of Kubernetes, or a person, reaches the API server as whom."""
        certificate, key = self.issue(name, common_name, organization)
        user = {"client-certificate": str(certificate), "client-key": str(key)}
        made = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "node", "cluster": {"server": server, "certificate-authority": str(self.certificate)}}
            ],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "node", "context": {"cluster": "node", "user": name}}],
            "current-context": "node",
        }
        path = self._folder / f"{name}.conf"
        path.write_text(json.dumps(made))
        return path

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + _LIFETIME)
        )

    def _write(self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        pem = serialization.Encoding.PEM
        (self._folder / f"{name}.crt").write_bytes(certificate.public_bytes(pem))
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (self._folder / f"{name}.key").write_bytes(private)
        (self._folder / f"{name}.key").chmod(0o600)
        public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
        (self._folder / f"{name}.pub").write_bytes(public)


def _name(common_name: str, organization: str) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(parts)


def _address(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
