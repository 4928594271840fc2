"""Golden vectors: one message of each kind that callers send or receive, as bytes and as JSON.

They are kept in `tests/contract/golden/vectors`, a file for each service and one for refusals, and never rewritten:
what callers wrote yesterday must be read tomorrow. `python -m artifacts.vectors` adds those of new methods, events
and reasons.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool, json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from artifacts import contract, examples, refusals
from artifacts.contract import Contract

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "contract" / "golden" / "vectors"
KINDS = ("request", "response", "event", "error")


@dataclass(frozen=True, slots=True)
class Vector:
    """A message, as everybody writes and reads it."""

    kind: str
    """One of KINDS."""
    name: str
    """The method, the event's subject, or the reason."""
    type: str
    """The message's full name."""
    json: Any
    binary: bytes

    @property
    def file_name(self) -> str:
        """What the files that it is published in are called, without their endings."""
        return f"{self.kind}s/{self.name.replace('/', '.')}"


def made(published: Contract) -> Iterator[tuple[str, Vector]]:
    """The vectors of the present contracts, each with the name of the file that it belongs to."""
    for method in published.methods:
        file = method.service.split(".")[1]
        yield file, of("request", method.full_name, examples.full(method.request))
        yield file, of("response", method.full_name, examples.full(method.response))
    for event in published.events:
        yield event.policy.subject.split(".")[1], of("event", event.policy.subject, examples.full(event.descriptor))
    for reason in published.reasons:
        if reason in refusals.codes():
            yield "refusals", of("error", reason, refusals.example(published, reason))


def of(kind: str, name: str, message: Message) -> Vector:
    """A message as a vector."""
    binary = message.SerializeToString(deterministic=True)
    return Vector(kind, name, message.DESCRIPTOR.full_name, json_format.MessageToDict(message), binary)


def kept() -> list[Vector]:
    """The golden vectors, in the order of their files."""
    return [vector for file in sorted(GOLDEN.glob("*.json")) for vector in _read(file)]


def message_of(vector: Vector) -> Message:
    """The message that the bytes stand for."""
    descriptor = descriptor_pool.Default().FindMessageTypeByName(vector.type)
    found: Message = GetMessageClass(descriptor).FromString(vector.binary)
    return found


def add() -> int:
    """Writes the vectors that are missing; gives their number."""
    published, added = contract.load(), 0
    files: dict[str, dict[tuple[str, str], Vector]] = {}
    for name, vector in made(published):
        if name not in files:
            files[name] = {(one.kind, one.name): one for one in _read(GOLDEN / f"{name}.json")}
        if (vector.kind, vector.name) not in files[name]:
            files[name][vector.kind, vector.name] = vector
            added += 1
    GOLDEN.mkdir(exist_ok=True)
    for name, vectors in files.items():
        text = json.dumps([_entry(vectors[key]) for key in sorted(vectors)], indent=1, ensure_ascii=False)
        (GOLDEN / f"{name}.json").write_text(text + "\n")
    return added


def write(folder: Path) -> None:
    """Publishes the golden vectors: two files each, and a list of them all."""
    index = []
    for vector in kept():
        place = folder / vector.file_name
        place.parent.mkdir(parents=True, exist_ok=True)
        Path(f"{place}.json").write_text(json.dumps(vector.json, indent=2, ensure_ascii=False) + "\n")
        Path(f"{place}.binpb").write_bytes(vector.binary)
        index.append({"kind": vector.kind, "name": vector.name, "type": vector.type, "files": vector.file_name})
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n")


def _entry(vector: Vector) -> dict[str, Any]:
    return {
        "kind": vector.kind,
        "name": vector.name,
        "type": vector.type,
        "json": vector.json,
        "binary": base64.b64encode(vector.binary).decode(),
    }


def _read(file: Path) -> Iterator[Vector]:
    if file.exists():
        for entry in json.loads(file.read_text()):
            binary = base64.b64decode(entry["binary"])
            yield Vector(entry["kind"], entry["name"], entry["type"], entry["json"], binary)


if __name__ == "__main__":
    sys.stdout.write(f"{add()} vectors added\n")
