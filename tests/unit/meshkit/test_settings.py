"""What a service is told: every mistake at once, by the variable's name, and no secret in what is said."""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from accounts.settings import Settings
from local import certs
from local.state import State, open_state
from meshkit import settings


@pytest.fixture(scope="module")
def state() -> Iterator[State]:
    """A state folder with certificates."""
    folder = Path(tempfile.mkdtemp(prefix="florin-settings-"))
    folder.chmod(0o755)
    made = open_state(folder / "state")
    certs.ensure(made)
    yield made
    shutil.rmtree(folder)


@pytest.fixture
def good(state: State, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment that a service starts with; none of another test's is in it."""
    for name in [name for name in os.environ if name.startswith("ACCOUNTS_")]:
        monkeypatch.delenv(name)
    certificate, key = state.certificate("accounts")
    encryption = state.secret("encryption", lambda: base64.urlsafe_b64encode(os.urandom(32)).decode())
    return {
        "GRPC_PORT": "0",
        "HEALTH_PORT": "0",
        "DATABASE_URL": "postgresql+psycopg://accounts_runtime@db/accounts?sslmode=verify-full",
        "NATS_URL": "tls://nats:4222",
        "TLS_CERT_FILE": str(certificate),
        "TLS_KEY_FILE": str(key),
        "TLS_CA_FILE": str(state.ca),
        "JWT_ISSUER": "https://issuer.example",
        "JWKS_URL": "https://issuer.example/jwks.json",
        "ENCRYPTION_KEY_FILE": str(encryption),
    }


def said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environment: dict[str, str]
) -> dict[str, str]:
    """Variable → what is wrong with it, as the start that they stop says it."""
    for name, value in environment.items():
        monkeypatch.setenv(f"ACCOUNTS_{name}", value)
    with pytest.raises(SystemExit) as ended:
        settings.load(Settings)
    assert ended.value.code == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "accounts: the settings are not usable:"
    return dict(line.strip().split(": ", 1) for line in lines)


def test_a_good_environment_is_taken(monkeypatch: pytest.MonkeyPatch, good: dict[str, str]) -> None:
    """What all the tests below change is right to begin with."""
    for name, value in good.items():
        monkeypatch.setenv(f"ACCOUNTS_{name}", value)
    loaded = settings.load(Settings)
    assert str(loaded.runtime_url()) == good["DATABASE_URL"]


def test_every_mistake_is_listed_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], good: dict[str, str], tmp_path: Path
) -> None:
    """Missing, malformed, contradicting and unreadable ones in one answer: nobody mends them one start at a time."""
    empty = tmp_path / "empty"
    empty.touch()
    del good["JWT_ISSUER"]
    changes = {
        "GRPC_PORT": "many",
        "DATABASE_URL": "nonsense",
        "OWNER_DATABASE_URL": "postgresql+psycopg://owner:hunter2@db/accounts",
        "OWNER_DATABASE_PASSWORD_FILE": str(empty),
        "NATS_URL": "nats://user:hunter2@nats:4222",
        "TLS_KEY_FILE": str(empty),
        "TLS_CA_FILE": str(empty),
        "JWKS_FILE": str(empty),
        "ENCRYPTION_KEY_FILE": str(empty),
        "LOG_LEVEL": "loud",
    }
    found = said(monkeypatch, capsys, {**good, **changes})
    assert set(found) == {f"ACCOUNTS_{name}" for name in (*changes, "JWT_ISSUER")}
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DATABASE_URL", "mysql://root@db/accounts", "PostgreSQL"),
        ("DATABASE_URL", "postgresql+psycopg://role:word@db/accounts", "no password"),
        ("DATABASE_URL", "postgresql+psycopg://role@db:port/accounts", "write it as"),
        ("DATABASE_URL", "postgresql+psycopg://role@db/accounts", "sslmode=verify-full"),
        ("DATABASE_URL", "postgresql+psycopg://role@localhost/accounts?host=db", "sslmode=verify-full"),
        ("OWNER_DATABASE_URL", "postgresql+psycopg://role@10.0.0.5:5432/accounts", "sslmode=verify-full"),
        ("JWKS_URL", "file:///etc/passwd", "https://"),
        ("JWKS_URL", "https:keys", "https://host/path"),
        ("JWKS_URL", "http://issuer.example/keys", "need https"),
        ("JWKS_URL", "http://127.0.0.1.issuer.example/keys", "need https"),
        ("DATABASE_PASSWORD_FILE", "/nowhere", "does not point to a file"),
    ],
)
def test_a_wrong_value_says_what_belongs_there(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    good: dict[str, str],
    name: str,
    value: str,
    words: str,
) -> None:
    """The sentence begins with the variable to set."""
    found = said(monkeypatch, capsys, {**good, name: value})
    assert list(found) == [f"ACCOUNTS_{name}"]
    assert words in found[f"ACCOUNTS_{name}"]


def test_keys_of_the_issuer_have_to_come_from_somewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], good: dict[str, str]
) -> None:
    """Neither an address nor a file: no token could be verified."""
    del good["JWKS_URL"]
    assert "exactly one of" in said(monkeypatch, capsys, good)["ACCOUNTS_JWKS_FILE"]


def test_another_identitys_key_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], good: dict[str, str], state: State
) -> None:
    """A mix-up is found at the start, not at the first handshake."""
    changed = {**good, "TLS_KEY_FILE": str(state.certificate("edge")[1])}
    assert "no pair" in said(monkeypatch, capsys, changed)["ACCOUNTS_TLS_KEY_FILE"]


@pytest.mark.parametrize("content", ["", "short", "c2hvcnQ=", "=" * 44, "\xff"])
def test_a_key_that_cannot_encrypt_stops_the_start(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    good: dict[str, str],
    tmp_path: Path,
    content: str,
) -> None:
    """It is a mistake in the list, not a failure of the first customer's name."""
    wrong = tmp_path / "key"
    wrong.write_bytes(content.encode("latin-1"))
    assert "ACCOUNTS_ENCRYPTION_KEY_FILE" in said(monkeypatch, capsys, {**good, "ENCRYPTION_KEY_FILE": str(wrong)})


@pytest.mark.parametrize("content", ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "\xff"])
def test_a_key_that_cannot_sign_stops_the_start(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    good: dict[str, str],
    tmp_path: Path,
    content: str,
) -> None:
    """It is a mistake in the list, not a sealer that fails for good; no key at all is none."""
    wrong = tmp_path / "key"
    wrong.write_bytes(content.encode("latin-1"))
    assert "ACCOUNTS_SEALING_KEY_FILE" in said(monkeypatch, capsys, {**good, "SEALING_KEY_FILE": str(wrong)})
    monkeypatch.delenv("ACCOUNTS_SEALING_KEY_FILE")
    assert settings.load(Settings).sealing_key_file is None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DATABASE_URL", "postgresql+psycopg://role@db/accounts?sslmode=verify-full", "its database must be"),
        ("DATABASE_URL", "postgresql+psycopg://role@localhost/a?host=db&sslmode=verify-full", "its database must be"),
        ("DATABASE_URL", "postgresql+psycopg:///a?host=/run,db&sslmode=verify-full", "its database must be"),
        ("DATABASE_URL", "postgresql+psycopg:///a?hostaddr=10.0.0.5&sslmode=verify-full", "its database must be"),
        ("DATABASE_URL", "postgresql+psycopg:///a?service=bank&sslmode=verify-full", "its database must be"),
        ("JWKS_URL", "https://issuer.example/jwks.json", "its tokens must be"),
    ],
)
def test_nothing_of_production_has_a_clock_that_can_be_moved(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    good: dict[str, str],
    tmp_path: Path,
    name: str,
    value: str,
    words: str,
) -> None:
    """A database or an issuer elsewhere beside the setting of a sandbox: the service does not start."""
    file = tmp_path / "clock.json"
    file.touch()
    here = {
        "DATABASE_URL": "postgresql+psycopg://role@127.0.0.1/accounts",
        "JWKS_URL": "http://127.0.0.1:8080/jwks.json",
        "SANDBOX_CLOCK_FILE": str(file),
    }
    found = said(monkeypatch, capsys, {**good, **here, name: value})
    assert list(found) == ["ACCOUNTS_SANDBOX_CLOCK_FILE"]
    assert words in found["ACCOUNTS_SANDBOX_CLOCK_FILE"]
    monkeypatch.setenv(f"ACCOUNTS_{name}", here[name])
    assert settings.load(Settings).sandbox_clock_file == file
