"""What a service is told from outside: environment variables, and secrets from files, never in variables.

It must not read anything but the environment and the files that it names, and it lists every mistake at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar, TypeVar

from pydantic import Field, FilePath, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import URL, make_url


class ServiceSettings(BaseSettings):
    """What all services are told. A service subclasses it with its prefix and its own settings."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    service: ClassVar[str] = ""
    """The service's name; also its folder, its database and its identity."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    grpc_port: int = Field(..., ge=0, le=65535, description="Port of the gRPC server (mTLS); 0 picks one.")
    health_port: int = Field(..., ge=0, le=65535, description="Port of /livez, /readyz and /metrics; 0 picks one.")

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
    jwks_file: FilePath | None = Field(None, description="A file with the issuer's keys, instead of jwks_url.")
    jwks_ca_file: FilePath | None = Field(
        None, description="Authorities that the issuer's certificate must come from; the system's if absent."
    )

    encryption_key_file: FilePath = Field(..., description="Keys for personal data, base64url, one a line.")

    otlp_endpoint: str | None = Field(None, description="host:port that traces are sent to (OTLP, gRPC).")
    trace_sample_ratio: float = Field(0.1, ge=0, le=1, description="Share of traces begun here that are kept.")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="The least level logged.")
    drain_seconds: float = Field(1.0, ge=0, le=300, description="NOT_SERVING for this long before a stop.")
    grace_seconds: float = Field(8.0, ge=0, le=300, description="Calls in flight get this long to finish.")
    concurrent_calls_max: int = Field(2000, ge=1, description="More calls at once are refused as OVERLOADED.")

    outbox_retention_hours: float = Field(168, gt=0, description="Published events are kept this long.")
    inbox_retention_hours: float = Field(336, gt=0, description="Ids of processed events are kept this long.")
    idempotency_retention_hours: float = Field(720, gt=0, description="Answers to request_ids are kept this long.")
    event_gap_seconds: float = Field(30, ge=0, description="How long a missing event of an aggregate is waited for.")

    @model_validator(mode="after")
    def _keys_from_one_place(self) -> ServiceSettings:
        if (self.jwks_url is None) == (self.jwks_file is None):
            raise ValueError("set exactly one of jwks_url and jwks_file")
        return self

    @model_validator(mode="after")
    def _no_password_in_a_variable(self) -> ServiceSettings:
        for name in ("database_url", "owner_database_url"):
            url = getattr(self, name)
            if url is not None and make_url(url).password is not None:
                raise ValueError(f"{name} must hold no password; put it into a file and set the _password_file")
        return self

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
