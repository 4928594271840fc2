"""What notifications is told from outside; it must not know defaults that only suit one machine."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, FilePath, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from meshkit.settings import ServiceSettings
from notifications.model import Backoff


class Settings(ServiceSettings):
    """NOTIFICATIONS_* variables."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_prefix="NOTIFICATIONS_")
    service: ClassVar[str] = "notifications"

    webhook_allow_loopback: bool = Field(
        False, description="Lets webhooks go to loopback, over http too; for local use only."
    )
    webhook_ca_file: FilePath | None = Field(
        None, description="Authorities that receivers' certificates must come from; the system's if absent."
    )
    webhook_connect_timeout_seconds: float = Field(3.0, gt=0, description="For the connection and TLS.")
    webhook_timeout_seconds: float = Field(10.0, gt=0, le=60, description="For a whole attempt.")
    webhook_attempts_max: int = Field(14, ge=1, le=50, description="Attempts before a delivery is given up.")
    webhook_backoff_base_seconds: float = Field(5.0, gt=0, description="The longest first wait; doubled each time.")
    webhook_backoff_max_seconds: float = Field(
        43_200.0, gt=0, description="No wait is longer, also if the receiver asks for one."
    )
    webhook_concurrency_max: int = Field(64, ge=1, le=1000, description="Attempts at once, per replica.")
    webhook_endpoint_concurrency_max: int = Field(8, ge=1, description="Attempts at once to one endpoint, per replica.")
    webhook_poll_seconds: float = Field(
        1.0, gt=0, description="How often due deliveries are looked for when nothing wakes the worker."
    )
    webhook_replay_max: int = Field(100_000, ge=1, description="Deliveries that one ReplayDeliveries may cover.")
    webhook_endpoints_max: int = Field(
        50, ge=1, description="Endpoints that a customer may have; staff are not bound by it."
    )
    secret_overlap_hours: float = Field(
        24.0, gt=0, description="How long a rotated secret still signs beside the new one."
    )
    event_retention_hours: float = Field(
        168.0, ge=1, validate_default=True, description="Events, deliveries and attempts are kept this long."
    )
    streams_max: int = Field(500, ge=1, description="Event streams at once, per replica.")
    stream_poll_seconds: float = Field(
        1.0, gt=0, description="How often a stream looks for events that another replica recorded."
    )

    def backoff(self) -> Backoff:
        """The waits between attempts."""
        return Backoff(
            base_s=self.webhook_backoff_base_seconds,
            max_s=self.webhook_backoff_max_seconds,
            attempts_max=self.webhook_attempts_max,
        )

    @field_validator("event_retention_hours")
    @classmethod
    def _events_outlive_their_attempts(cls, hours: float, info: ValidationInfo) -> float:
        attempts, wait = info.data.get("webhook_attempts_max"), info.data.get("webhook_backoff_max_seconds")
        if attempts is None or wait is None:
            return hours  # they are wrong by themselves
        span = Backoff(base_s=wait, max_s=wait, attempts_max=attempts).longest_span_s()
        if span > hours * 3600:
            raise ValueError(
                "a delivery would be gone before its last attempt:"
                f" webhook_attempts_max and webhook_backoff_max_seconds let it take {span / 3600:g} hours"
            )
        return hours
