"""What a process of the mesh is told from outside: environment variables, and secrets from files, never in variables.

It must not read anything but the environment and the files that it names, and it lists every mistake at once.
"""

from __future__ import annotations

import ssl
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import ClassVar

from pydantic import Field, FilePath, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class ProcessSettings(BaseSettings):
    """What each process of the mesh is told: where it listens, and who it is."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    service: ClassVar[str] = ""
    """The process's name, which is its identity too; a service's folder and database have it."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    grpc_port: int = Field(..., ge=0, le=65535, description="Port of the gRPC server (mTLS); 0 picks one.")
    health_port: int = Field(..., ge=0, le=65535, description="Port of /livez, /readyz and /metrics; 0 picks one.")

    tls_cert_file: FilePath = Field(..., description="The process's certificate, with its SPIFFE URI.")
    tls_key_file: FilePath = Field(..., description="The key of the certificate.")
    tls_ca_file: FilePath = Field(..., description="The authority that all identities are signed by.")

    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="The least level logged.")
    grace_seconds: float = Field(8.0, ge=0, le=300, description="What is under way gets this long to finish.")

    # Validators of fields, not of the whole: those run only when every field is right, and would hide what they find.

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

    @field_validator("tls_ca_file")
    @classmethod
    def _authorities(cls, value: Path) -> Path:
        return authorities(value)


def authorities(path: Path) -> Path:
    """A file of certificates. Raises ValueError for one that holds none."""
    try:
        ssl.create_default_context(cafile=str(path))
    except (ssl.SSLError, OSError):
        raise ValueError("it holds no certificates that can be read") from None
    return path


def is_this_machine(host: str) -> bool:
    """Whether a host's name or address is that of loopback."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def text_of(path: Path) -> str:
    """A file's text. Raises ValueError when there is none to read."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        raise ValueError("the file cannot be read") from None


def load[S: ProcessSettings](settings_class: type[S]) -> S:
    """Reads the settings; on mistakes, prints all of them with the variables' names and exits with status 2."""
    try:
        return settings_class()
    except ValidationError as error:
        sys.stderr.write(mistakes(settings_class, error) + "\n")
        raise SystemExit(2) from None


def mistakes(settings_class: type[ProcessSettings], error: ValidationError) -> str:
    """One line a mistake, each beginning with the variable to set."""
    prefix = settings_class.model_config.get("env_prefix", "")
    lines = [f"{settings_class.service}: the settings are not usable:"]
    for mistake in error.errors(include_input=False, include_url=False):
        name = "_".join(str(part) for part in mistake["loc"]).upper()
        lines.append(f"  {prefix}{name or '*'}: {mistake['msg']}")
    return "\n".join(lines)
