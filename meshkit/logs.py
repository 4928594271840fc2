"""JSON logs with trace and request ids; no personal data may reach them: protobuf messages are redacted by contract."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import structlog
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from meshkit import identity

# Up to the end of the line, or of what `repr` makes of it.
_DETAIL = re.compile(r"(DETAIL:\s*)(?:(?!\\n).)*")


def configure(service: str, level: str) -> None:
    """Sets up logging for the process: one JSON object a line on stderr."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _call_ids,
            _redact_messages,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _drop_rows,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LibraryFormatter(service))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


class _LibraryFormatter(logging.Formatter):
    """What libraries log, in the same form: one JSON object a line, whatever quotes and lines it holds."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """One record as a line."""
        event: structlog.typing.EventDict = {
            "library": record.name,
            "event": record.getMessage(),
            "service": self._service,
            "level": record.levelname.lower(),
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(_drop_rows(None, "", event), default=str)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(module=name)
    return logger


def redacted(message: Message) -> dict[str, Any]:
    """A message as a dict with every `debug_redact` field replaced, at any depth."""
    shown: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.GetOptions().debug_redact:
            shown[field.name] = "[redacted]"
        elif field.type != FieldDescriptor.TYPE_MESSAGE:
            shown[field.name] = list(value) if _is_repeated(field) else value
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            shown[field.name] = {str(key): str(value[key]) for key in value}
        elif _is_repeated(field):
            shown[field.name] = [redacted(item) for item in value]
        else:
            shown[field.name] = redacted(value)
    return shown


def _is_repeated(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)


def _call_ids(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    call = identity.current_or_none()
    if call is not None:
        event.setdefault("method", call.method)
        event.setdefault("request_id", call.request_id)
        if call.trace_id:
            event.setdefault("trace_id", call.trace_id)
        if call.principal is not None:
            event.setdefault("tenant", call.principal.tenant)
            event.setdefault("subject", call.principal.subject)
    return event


def _redact_messages(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {key: _redacted_value(value) for key, value in event.items()}


def _redacted_value(value: Any) -> Any:
    if isinstance(value, Message):
        return redacted(value)
    if isinstance(value, Mapping):
        return {key: _redacted_value(inner) for key, inner in value.items()}
    # Not tuples: exc_info is one, and has to stay.
    return [_redacted_value(inner) for inner in value] if isinstance(value, list) else value


def _drop_rows(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """PostgreSQL's errors quote the row that they are about, which may hold an IBAN or a name."""
    for key in ("exception", "cause", "event"):
        text = event.get(key)
        if isinstance(text, str) and "DETAIL:" in text:
            event[key] = _DETAIL.sub(r"\1[redacted]", text)
    return event
