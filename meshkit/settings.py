"""What a service is told from outside: environment variables, and secrets from files, never in variables.

It must not read anything but the environment and the files that it names, and it lists every mistake at once.
"""

from __future__ import annotations

import ssl
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import ClassVar, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, FilePath, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from meshkit.cipher import Cipher


class ServiceSettings(BaseSettings):
    """What all services are told. A service subclasses it with its prefix and its own settings."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    service: ClassVar[str] = ""
    """The service's name; also its folder, its database and its identity."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    grpc_port: int = Field(..., ge=0, le=65535, description="Port of the gRPC server (mTLS); 0 picks one.")
    health_port: int = Field(..., ge=0, le=65535, description="Port of /livez, /readyz and /metrics; 0 picks one.")
    probe_port: int | None = Field(
        None, ge=0, le=65535, description="Port of grpc.health.v1 alone, without TLS, for kubelets; none if absent."
    )

    database_url: str = Field(..., description="postgresql+psycopg://role@host/database, without a password.")
    database_password_file: FilePath | None = Field(None, description="File with the runtime role's password.")
    database_pool_size: int = Field(8, ge=2, le=200, description="Connections to the database at most.")
    database_statement_timeout_ms: int = Field(4000, ge=100, description="A statement is ended after this.")
    owner_database_url: str | None = Field(None, description="The owner's URL; only `migrate` reads it.")
    owner_database_password_file: FilePath | None = Field(None, description="File with the owner's password.")
    runtime_role: str = Field("", description="Role that `migrate` grants to; <service>_runtime if empty.")

    nats_url: str = Field(..., description="tls://host:port of NATS.")
    tls_cert_file: FilePath = Field(..., description="The service's certificate, with its SPIFFE URI.")
    tls_key_file: FilePath = Field(..., description="The key of the certificate.")
    tls_ca_file: FilePath = Field(..., description="The authority that all identities are signed by.")

    jwt_issuer: str = Field(..., description="The `iss` that tokens must have.")
    jwt_audience: str = Field("florin", description="The `aud` that tokens must have.")
    jwks_url: str | None = Field(None, description="Where the issuer's keys are fetched from.")
    jwks_file: FilePath | None = Field(
        None, validate_default=True, description="A file with the issuer's keys, instead of jwks_url."
    )
    jwks_ca_file: FilePath | None = Field(
        None, description="Authorities that the issuer's certificate must come from; the system's if absent."
    )

    encryption_key_file: FilePath = Field(..., description="Keys for personal data, base64url, one a line.")

    otlp_endpoint: str | None = Field(
        None, pattern=r"^\S+:[0-9]{1,5}$", description="host:port that traces are sent to (OTLP, gRPC)."
    )
    trace_sample_ratio: float = Field(0.1, ge=0, le=1, description="Share of traces begun here that are kept.")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="The least level logged.")
    drain_seconds: float = Field(1.0, ge=0, le=300, description="NOT_SERVING for this long before a stop.")
    grace_seconds: float = Field(8.0, ge=0, le=300, description="Calls in flight get this long to finish.")
    concurrent_calls_max: int = Field(2000, ge=1, description="More calls at once are refused as OVERLOADED.")

    outbox_retention_hours: float = Field(168, gt=0, description="Published events are kept this long.")
    inbox_retention_hours: float = Field(336, gt=0, description="Ids of processed events are kept this long.")
    idempotency_retention_hours: float = Field(720, gt=0, description="Answers to request_ids are kept this long.")
    event_gap_seconds: float = Field(30, ge=0, description="How long a missing event of an aggregate is waited for.")
    sandbox_clock_file: FilePath | None = Field(
        None, description="For a sandbox alone: a file that says how far its clock is moved."
    )

    # Validators of fields, not of the whole: those run only when every field is right, and would hide what they find.

    @field_validator("database_url", "owner_database_url")
    @classmethod
    def _a_database_without_a_password(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            url = make_url(value)
        except (ArgumentError, ValueError):  # the latter for a port that is no number
            raise ValueError("write it as postgresql+psycopg://role@host/database") from None
        if not url.drivername.startswith("postgresql"):
            raise ValueError("it must be a PostgreSQL database")
        if url.password is not None:
            raise ValueError("it must hold no password; put it into a file and set the _PASSWORD_FILE")
        if not _is_local(url) and "sslmode" not in url.query:
            # The driver's own default would go on in the clear where the server offers no TLS.
            raise ValueError(
                "a database on another host needs ?sslmode=verify-full&sslrootcert=…, or the sslmode you mean"
            )
        return value

    @field_validator("database_password_file", "owner_database_password_file")
    @classmethod
    def _a_password(cls, value: Path | None) -> Path | None:
        if value is not None and not _text_of(value).strip():
            raise ValueError("the file is empty")
        return value

    @field_validator("nats_url")
    @classmethod
    def _an_encrypted_broker(cls, value: str) -> str:
        if not value.startswith("tls://"):
            raise ValueError("write it as tls://host:port")
        return value

    @field_validator("tls_key_file")
    @classmethod
    def _a_key_that_fits(cls, value: Path, info: ValidationInfo) -> Path:
        certificate = info.data.get("tls_cert_file")
        if certificate is not None:
            try:
                ssl.create_default_context().load_cert_chain(str(certificate), str(value))
            except (ssl.SSLError, OSError):
                raise ValueError("it and the certificate are no pair that can be used") from None
        return value

    @field_validator("tls_ca_file", "jwks_ca_file")
    @classmethod
    def _authorities(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                ssl.create_default_context(cafile=str(value))
            except (ssl.SSLError, OSError):
                raise ValueError("it holds no certificates that can be read") from None
        return value

    @field_validator("jwks_url")
    @classmethod
    def _an_address_of_keys(cls, value: str | None) -> str | None:
        if value is None:
            return None
        address = urlsplit(value)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("write it as https://host/path")
        if address.scheme == "http" and not _is_this_machine(address.hostname):
            # Whoever could change the answer on its way could sign tokens of anybody.
            raise ValueError("keys of another host need https://")
        return value

    @field_validator("jwks_file")
    @classmethod
    def _keys_from_one_place(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if "jwks_url" in info.data and (info.data["jwks_url"] is None) == (value is None):
            raise ValueError("set exactly one of JWKS_URL and JWKS_FILE")
        return value

    @field_validator("encryption_key_file")
    @classmethod
    def _keys_that_encrypt(cls, value: Path) -> Path:
        _text_of(value)
        try:
            Cipher.from_file(value)
        except ValueError:
            raise ValueError("each line must be 32 bytes in base64url, and there must be one") from None
        return value

    @field_validator("sandbox_clock_file")
    @classmethod
    def _a_clock_of_nobody_else(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None:
            return None
        database, keys = info.data.get("database_url"), info.data.get("jwks_url")
        if database is not None and not _is_local(make_url(database)):
            raise ValueError("the clock of a sandbox can be moved, so its database must be on this machine")
        if keys is None or not _is_this_machine(str(urlsplit(keys).hostname)):
            raise ValueError("the clock of a sandbox can be moved, so its tokens must be of an issuer on this machine")
        return value

    def runtime_url(self) -> URL:
        """The database as the running service sees it."""
        return _with_password(self.database_url, self.database_password_file)

    def owner_url(self) -> URL:
        """The database as `migrate` sees it. Raises ValueError when it is not set."""
        if self.owner_database_url is None:
            raise ValueError("migrate needs owner_database_url (and owner_database_password_file)")
        return _with_password(self.owner_database_url, self.owner_database_password_file)

    def role(self) -> str:
        """The role that migrations grant to."""
        return self.runtime_role or f"{self.service}_runtime"


def _is_local(url: URL) -> bool:
    """Whether a database is reached without leaving the machine: by a socket's folder, or over loopback."""
    # What the query names goes before the URL's own host, and of several hosts each may be the one.
    named = [text for name in ("host", "hostaddr") for text in url.normalized_query.get(name, ())]
    hosts = [host for text in (url.host or "", *named) for host in text.split(",")]
    return "service" not in url.query and all(
        not host or host.startswith("/") or _is_this_machine(host) for host in hosts
    )


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        raise ValueError("the file cannot be read") from None


def _with_password(url: str, password_file: Path | None) -> URL:
    parsed = make_url(url).set(drivername="postgresql+psycopg")
    if password_file is None:
        return parsed
    return parsed.set(password=password_file.read_text().strip())


S = TypeVar("S", bound=ServiceSettings)


def load[S: ServiceSettings](settings_class: type[S]) -> S:
    """Reads the settings; on mistakes, prints all of them with the variables' names and exits with status 2."""
    try:
        return settings_class()
    except ValidationError as error:
        sys.stderr.write(mistakes(settings_class, error) + "\n")
        raise SystemExit(2) from None


def mistakes(settings_class: type[ServiceSettings], error: ValidationError) -> str:
    """One line a mistake, each beginning with the variable to set."""
    prefix = settings_class.model_config.get("env_prefix", "")
    lines = [f"{settings_class.service}: the settings are not usable:"]
    for mistake in error.errors(include_input=False, include_url=False):
        name = "_".join(str(part) for part in mistake["loc"]).upper()
        lines.append(f"  {prefix}{name or '*'}: {mistake['msg']}")
    return "\n".join(lines)
