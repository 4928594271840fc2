"""What all stores say of columns: their names under an alias, and how a refusal stands in one; no statements."""

from __future__ import annotations

from google.rpc import status_pb2


def of(alias: str, columns: str) -> str:
    """A list of columns as those of a table's alias: "a, b" of "t" is "t.a, t.b"."""
    return ", ".join(f"{alias}.{column.strip()}" for column in columns.split(","))


def status_bytes(status: status_pb2.Status | None) -> bytes | None:
    """A refusal as it is kept."""
    return status.SerializeToString() if status is not None else None


def status_from(kept: bytes | None) -> status_pb2.Status | None:
    """The other way."""
    return status_pb2.Status.FromString(bytes(kept)) if kept is not None else None
