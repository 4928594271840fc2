"""The repository keeps no secret, no generated code, no address of a package registry, and locks everything by hash."""

from __future__ import annotations

import re

from tests.tidy.test_style import ROOT, tracked

TEXT = (".py", ".md", ".toml", ".yaml", ".yml", ".proto", ".lock", ".txt", ".json", ".xml", ".csv", ".sh", ".cfg")


def texts() -> list[tuple[str, str]]:
    """Every tracked text file with its content."""
    wanted = [path for path in tracked() if path.suffix in TEXT or path.name in {"Makefile", "Dockerfile", "run"}]
    return [(str(path.relative_to(ROOT)), path.read_text(errors="replace")) for path in wanted]


def test_no_registry_host_stands_anywhere() -> None:
    """Packages are named, never where they come from: every installation has its own registry."""
    hosts = [
        r"pypi\.org",
        r"files\.pythonhosted",
        r"registry\.npmjs",
        r"proxy\.golang",
        r"repo1?\.maven",
        r"crates\.io/api",
    ]
    found = [
        name for name, text in texts() if not name.startswith("tests/tidy/") for host in hosts if re.search(host, text)
    ]
    assert found == []


def test_no_secret_stands_anywhere() -> None:
    """Keys and tokens are made at first start; none is ever committed."""
    patterns = [
        r"-----BEGIN (EC |RSA |)PRIVATE KEY-----\n[A-Za-z0-9+/]{20}",
        r"\beyJ[A-Za-z0-9_-]{20,}\.eyJ[A-Za-z0-9_-]{20,}\.",
        r"\bwhsec_[A-Za-z0-9+/]{24,}",
        r"\bAKIA[0-9A-Z]{16}\b",
    ]
    found = [f"{name}: {pattern[:20]}" for name, text in texts() for pattern in patterns if re.search(pattern, text)]
    assert found == []


def test_no_generated_stub_is_tracked() -> None:
    """Stubs are made by `make gen`; a committed one would drift."""
    assert [str(path) for path in tracked("*_pb2.py", "*_pb2_grpc.py", "*.binpb")] == []


def test_every_dependency_is_locked_with_hashes() -> None:
    """Each requirement of the lock is one version with its hashes."""
    lock = (ROOT / "requirements.lock").read_text()
    entries = re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", lock, re.M)
    blocks = re.split(r"^(?=[a-z0-9._-]+==)", lock, flags=re.M)[1:]
    assert len(entries) > 50
    assert [block.split("\n")[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_the_direct_dependencies_are_in_the_lock() -> None:
    """A dependency added to pyproject.toml without `make lock` is found here."""
    project = (ROOT / "pyproject.toml").read_text()
    names = set(re.findall(r'^  "([a-zA-Z0-9._-]+)', project, re.M))
    locked = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(), re.M))
    wanted = {name.lower().replace("_", "-") for name in names}
    ruff_codes = re.compile(r"^[a-z]{1,5}[0-9]*$")
    missing = {name for name in wanted - locked if not ruff_codes.match(name) and "." not in name}
    assert missing <= {"florin", "hatchling"} - locked | set(), f"run make lock: {sorted(missing)}"
