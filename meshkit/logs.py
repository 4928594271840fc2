"""JSON logs with trace and request ids; no personal data may reach them: protobuf messages are redacted by contract."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from meshkit import identity


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
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format='{"library":"%(name)s","event":"%(message)s"}')


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
        if call.traceparent:
            event.setdefault("trace_id", call.traceparent.split("-")[1])
        if call.principal is not None:
            event.setdefault("tenant", call.principal.tenant)
            event.setdefault("subject", call.principal.subject)
    return event


def _redact_messages(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for key, value in event.items():
        if isinstance(value, Message):
            event[key] = redacted(value)
    return event
