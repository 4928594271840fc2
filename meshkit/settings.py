"""What a service is told from outside, beside what every process is; it reads nothing itself."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, FilePath, ValidationInfo, field_validator
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from meshkit.cipher import Cipher
from meshkit.process_settings import ProcessSettings, authorities, is_this_machine, load, mistakes, text_of

__all__ = ["ServiceSettings", "load", "mistakes"]


class ServiceSettings(ProcessSettings):
    """What all services are told. A service subclasses it with its prefix and its own settings."""

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
    drain_seconds: float = Field(1.0, ge=0, le=300, description="NOT_SERVING for this long before a stop.")
    concurrent_calls_max: int = Field(2000, ge=1, description="More calls at once are refused as OVERLOADED.")

    outbox_retention_hours: float = Field(168, gt=0, description="Published events are kept this long.")
    inbox_retention_hours: float = Field(336, gt=0, description="Ids of processed events are kept this long.")
    idempotency_retention_hours: float = Field(720, gt=0, description="Answers to request_ids are kept this long.")
    event_gap_seconds: float = Field(30, ge=0, description="How long a missing event of an aggregate is waited for.")
    sandbox_clock_file: FilePath | None = Field(
        None, description="For a sandbox alone: a file that says how far its clock is moved."
    )

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
        if value is not None and not text_of(value).strip():
            raise ValueError("the file is empty")
        return value

    @field_validator("nats_url")
    @classmethod
    def _an_encrypted_broker(cls, value: str) -> str:
        if not value.startswith("tls://"):
            raise ValueError("write it as tls://host:port")
        return value

    @field_validator("jwks_ca_file")
    @classmethod
    def _authorities_of_the_issuer(cls, value: Path | None) -> Path | None:
        return None if value is None else authorities(value)

    @field_validator("jwks_url")
    @classmethod
    def _an_address_of_keys(cls, value: str | None) -> str | None:
        if value is None:
            return None
        address = urlsplit(value)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("write it as https://host/path")
        if address.scheme == "http" and not is_this_machine(address.hostname):
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
        text_of(value)
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
        if keys is None or not is_this_machine(str(urlsplit(keys).hostname)):
            raise ValueError("the clock of a sandbox can be moved, so its tokens must be of an issuer on this machine")
        return value

    def runtime_url(self) -> URL:
        """The database as the running service sees it."""
        return with_password(self.database_url, self.database_password_file)

    def owner_url(self) -> URL:
        """The database as `migrate` sees it. Raises ValueError when it is not set."""
        if self.owner_database_url is None:
            raise ValueError("migrate needs owner_database_url (and owner_database_password_file)")
        return with_password(self.owner_database_url, self.owner_database_password_file)

    def role(self) -> str:
        """The role that migrations grant to."""
        return self.runtime_role or f"{self.service}_runtime"


def _is_local(url: URL) -> bool:
    """Whether a database is reached without leaving the machine: by a socket's folder, or over loopback."""
    # What the query names goes before the URL's own host, and of several hosts each may be the one.
    named = [text for name in ("host", "hostaddr") for text in url.normalized_query.get(name, ())]
    hosts = [host for text in (url.host or "", *named) for host in text.split(",")]
    return "service" not in url.query and all(
        not host or host.startswith("/") or is_this_machine(host) for host in hosts
    )


def with_password(url: str, password_file: Path | None) -> URL:
    """A database's URL with the password in a file, if there is one."""
    parsed = make_url(url).set(drivername="postgresql+psycopg")
    if password_file is None:
        return parsed
    return parsed.set(password=password_file.read_text().strip())
