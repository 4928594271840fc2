"""Golden vectors: what callers wrote and read yesterday is what they write and read today."""

from __future__ import annotations

from pathlib import Path

import protovalidate
import pytest
from google.protobuf import json_format

from artifacts import contract, refusals, vectors
from artifacts.vectors import KINDS, Vector

UPDATE = """New methods, events and reasons need their vectors; add them and look at them:
    .venv/bin/python -m artifacts.vectors"""
PUBLISHED = contract.load()
KEPT = vectors.kept()


def test_every_method_event_and_reason_has_its_vectors_once() -> None:
    """Nothing public is without one, and nothing that was public once has lost its own."""
    kept = [(vector.kind, vector.name) for vector in KEPT]
    wanted = {("request", method.full_name) for method in PUBLISHED.methods}
    wanted |= {("response", method.full_name) for method in PUBLISHED.methods}
    wanted |= {("event", event.policy.subject) for event in PUBLISHED.events}
    wanted |= {("error", reason) for reason in PUBLISHED.reasons if reason in refusals.codes()}
    assert set(kept) == wanted, UPDATE
    assert len(kept) == len(set(kept))


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_read_and_written_as_they_were(kind: str) -> None:
    """The bytes and the JSON say the same, the code reads both, and writes each of them again to the letter."""
    of_kind = [vector for vector in KEPT if vector.kind == kind]
    assert len(of_kind) > 40
    for vector in of_kind:
        message = vectors.message_of(vector)
        assert vectors.of(kind, vector.name, message) == vector
        assert json_format.ParseDict(vector.json, type(message)()) == message, vector.name
        assert not _unknown(message), f"{vector.name} has fields that the contract does not know any more"


def test_requests_keep_the_rules_of_their_contract() -> None:
    """What was a good request stays one: no rule becomes stricter for it."""
    for vector in KEPT:
        if vector.kind == "request":
            protovalidate.validate(vectors.message_of(vector))


def test_the_published_files_are_the_kept_ones(tmp_path: Path) -> None:
    """The list names every vector, and beside it stand its bytes and its JSON."""
    vectors.write(tmp_path)
    assert len(list(tmp_path.rglob("*.binpb"))) == len(KEPT) == len(list(tmp_path.rglob("*s/*.json")))
    some: Vector = next(vector for vector in KEPT if vector.name.endswith("/CreateTransfer"))
    assert (tmp_path / f"{some.file_name}.binpb").read_bytes() == some.binary


def _unknown(message: object) -> bool:
    from google.protobuf.unknown_fields import UnknownFieldSet

    return len(UnknownFieldSet(message)) > 0  # type: ignore[arg-type]
