"""What the `florin` command takes and refuses before it does anything; one sentence each, never a traceback."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from local import cli, events, live, watchlists
from local.mesh import Wishes
from local.state import MeshError, open_state

runner = CliRunner()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A path for a state folder that `nobody` can enter: pytest's own are closed."""
    made = Path(tempfile.mkdtemp(prefix="florin-cli-"))
    made.chmod(0o755)
    yield made / "state"
    shutil.rmtree(made)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The wishes that `florin up` would have started a mesh with."""
    wishes: list[Any] = []
    monkeypatch.setattr(live, "run", lambda _state, wish: wishes.append(wish))
    return wishes


def test_up_hands_on_what_was_asked_for(started: list[Any], folder: Path) -> None:
    """Port, replicas, the traces' collector, the pages that may call."""
    options = ["--port", "9443", "--scale", "transactions=2", "--scale", "accounts=3", "--otlp", "localhost:4317"]
    options += ["--cors-origin", "http://localhost:3000"]
    done = runner.invoke(cli.app, ["up", *options, "--state", str(folder)])
    assert done.exit_code == 0, done.output
    assert (started[0].port, started[0].scale, started[0].otlp) == (
        9443,
        {"transactions": 2, "accounts": 3},
        "localhost:4317",
    )
    assert started[0].cors_origins == ("http://localhost:3000",)


@pytest.mark.parametrize("port", ["-1", "65536", "many"])
def test_a_port_that_there_is_not_is_a_usage_error(started: list[Any], tmp_path: Path, port: str) -> None:
    """It is refused before a folder is made."""
    folder = tmp_path / "state"
    done = runner.invoke(cli.app, ["up", "--port", port, "--state", str(folder)])
    assert done.exit_code == 2
    assert not started
    assert not folder.exists()


@pytest.mark.parametrize(
    "scale", ["teller=2", "accounts", "accounts=0", "accounts=17", "accounts=-1", "=2", "accounts=x"]
)
def test_a_scale_that_makes_no_sense_is_a_sentence(started: list[Any], tmp_path: Path, scale: str) -> None:
    """It says what may stand there; no folder is made."""
    done = runner.invoke(cli.app, ["up", "--scale", scale, "--state", str(tmp_path / "state")])
    assert isinstance(done.exception, MeshError)
    assert "SERVICE=1 to SERVICE=16" in str(done.exception)
    assert not started
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("otlp", ["localhost", "http://localhost:4317", ":4317", "a b:1", "localhost:port"])
def test_a_collector_that_is_no_address_is_a_sentence(started: list[Any], tmp_path: Path, otlp: str) -> None:
    """It is said before anything is started."""
    done = runner.invoke(cli.app, ["up", "--otlp", otlp, "--state", str(tmp_path / "state")])
    assert isinstance(done.exception, MeshError)
    assert "host:port" in str(done.exception)
    assert not started


@pytest.mark.parametrize(
    "origin", ["*", "null", "localhost:3000", "https://app.example/", "https://a.example,b.example"]
)
def test_an_origin_that_is_none_is_a_sentence(started: list[Any], tmp_path: Path, origin: str) -> None:
    """A page's origin has a scheme and no path, and there is no letting everybody in."""
    done = runner.invoke(cli.app, ["up", "--cors-origin", origin, "--state", str(tmp_path / "state")])
    assert isinstance(done.exception, MeshError)
    assert "scheme://host" in str(done.exception)
    assert not started


LOOKING = [
    ["down"],
    ["status"],
    ["status", "--json"],
    ["logs"],
    ["token", "--as", "teller"],
    ["ca"],
    ["verify"],
    ["tenants", "create", "acme"],
    ["watchlist", "import", "."],
    ["rules", "get"],
    ["rules", "set", "large", "true"],
    ["limits", "get"],
    ["limits", "set", "per-day", "EUR", "1.00"],
    ["events", "dead"],
    ["events", "redrive"],
    ["events", "drop", "1"],
    ["events", "replay", "accounts", "2026-01-01", "2026-01-02"],
]


@pytest.mark.parametrize("command", LOOKING, ids=" ".join)
def test_a_command_without_a_mesh_is_a_sentence_and_leaves_nothing(tmp_path: Path, command: list[str]) -> None:
    """A mistyped folder is named, and not made."""
    folder = tmp_path / "typo"
    done = runner.invoke(cli.app, [*command, "--state", str(folder)])
    assert isinstance(done.exception, MeshError), done.output
    assert "No mesh was started" in str(done.exception)
    assert not folder.exists()


def test_the_entry_point_says_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What a person can mend has no traceback, and the exit code says that it failed."""

    def refuses() -> None:
        raise MeshError("Port 8443 is taken.")

    monkeypatch.setattr(cli, "app", refuses)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "Port 8443 is taken.\n"


def test_a_full_disk_is_a_sentence_and_a_bug_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the system refuses is named with the file; any other failure keeps its traceback."""

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/state/logs/nats.log")

    monkeypatch.setattr(cli, "app", full)
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == "/state/logs/nats.log: No space left on device.\n"

    def bug() -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(cli, "app", bug)
    with pytest.raises(OSError, match="Bad file descriptor"):
        cli.main()


def test_a_limit_is_written_in_units_and_sent_in_minor_units() -> None:
    """As many decimals as the currency has; a customer with or without its prefix."""
    assert cli.limit_message("per-day", "JPY", "5000", None) == {
        "kind": "LIMIT_KIND_PER_DAY",
        "maximum": {"currencyCode": "JPY", "minorUnits": "5000"},
    }
    for customer in ("ada", "customers/ada"):
        message = cli.limit_message("per-payment", "EUR", "12.50", customer)
        assert (message["maximum"]["minorUnits"], message["customer"]) == ("1250", "customers/ada")


@pytest.mark.parametrize(
    ("kind", "currency", "maximum"),
    [("per-week", "EUR", "1"), ("per-day", "EUR", "1.234"), ("per-day", "XXZ", "1"), ("per-day", "EUR", "much")],
)
def test_a_limit_that_makes_no_sense_is_a_sentence(kind: str, currency: str, maximum: str) -> None:
    """A wrong kind, too many decimals, an unknown currency, no number."""
    with pytest.raises(MeshError):
        cli.limit_message(kind, currency, maximum, None)


def test_a_watchlists_files_are_found_in_any_case(tmp_path: Path) -> None:
    """A folder or the list itself; what is no part of it is left."""
    for name in ("sdn.csv", "Alt.CSV", "notes.txt"):
        (tmp_path / name).touch()
    found = {"SDN": tmp_path / "sdn.csv", "ALT": tmp_path / "Alt.CSV"}
    assert watchlists.files(tmp_path) == found
    assert watchlists.files(tmp_path / "sdn.csv") == found


def test_a_folder_without_a_list_is_a_sentence(tmp_path: Path) -> None:
    """An empty folder, and a path that there is not."""
    with pytest.raises(MeshError, match=r"has no SDN\.CSV"):
        watchlists.files(tmp_path)
    with pytest.raises(MeshError, match="does not exist"):
        watchlists.files(tmp_path / "nowhere" / "SDN.CSV")


def test_events_of_nobody_cannot_be_told_again(tmp_path: Path) -> None:
    """Neither a service nor a consumer is made up."""
    from local.state import State

    state = State(tmp_path)
    with pytest.raises(MeshError, match="no service tellers"):
        events.replay(state, "tellers", "2026-01-01", "2026-01-02", None)
    with pytest.raises(MeshError, match="no consumer tellers"):
        events.replay(state, "accounts", "2026-01-01", "2026-01-02", "tellers")


def test_what_a_detached_mesh_said_before_it_ended_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its whole sentence, not the steps before it; and a description of a mesh before it is not taken for its own."""
    program = tmp_path / "florin"
    program.write_text(
        "#!/bin/sh\necho '· starting PostgreSQL and NATS'\necho 'nats did not become ready:'\necho why\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(program)])
    state = open_state(folder)
    state.description.write_text('{"edge": "localhost:1"}')
    with pytest.raises(MeshError, match=r"\Anats did not become ready:\nwhy\Z"):
        live.detach(state, Wishes())
