"""The state folder: who may use it, what is wrong with it in one sentence, and who holds it."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from accounts import signing
from local import mesh, services, state
from local.state import MeshError, State, find_state, open_state


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that anybody may enter, as the server's user has to."""
    made = Path(tempfile.mkdtemp(prefix="florin-state-"))
    made.chmod(0o755)
    yield made / "state"
    shutil.rmtree(made)


@pytest.fixture
def made(folder: Path) -> State:
    """A state folder as `florin up` makes it."""
    return open_state(folder)


def holder(made: State) -> subprocess.Popen[bytes]:
    """A process that holds the folder as a supervisor does, until it is signalled."""
    program = (
        "import signal, sys; from pathlib import Path; from local.state import State, lock;"
        "held = lock(State(Path(sys.argv[1]))); print('held', flush=True); signal.sigwait([signal.SIGTERM])"
    )
    blocked = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); {program}"
    process = subprocess.Popen([sys.executable, "-c", blocked, str(made.root)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_secrets_certificates_and_logs_are_the_owners_alone(made: State) -> None:
    """Nobody else may list them, whatever the umask."""
    for path in (made.secrets, made.root / "certs", made.logs):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(made.secret("word").stat().st_mode) == 0o600


def test_a_secret_is_made_once(made: State) -> None:
    """The second time gives the same file with the same value."""
    first = made.secret("word").read_text()
    assert made.secret("word").read_text() == first
    assert len(first) >= 24


def test_a_sealing_key_is_made_once_and_an_earlier_one_stays_known(made: State) -> None:
    """The private key is its owner's; the public ones are for everybody, the present one first."""
    path = services.ensure_sealing_key(made)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first, content = signing.signer(path), path.read_text()
    assert "PRIVATE" not in made.sealing_keys.read_text()
    made.sealing_keys.unlink()
    assert services.ensure_sealing_key(made).read_text() == content
    path.unlink()
    second = signing.signer(services.ensure_sealing_key(made))
    assert second.key_id != first.key_id
    kept = signing.verifying_keys(made.sealing_keys).raw()
    assert [name for name, _ in kept] == [name for name, _ in second.known.raw()] == [second.key_id, first.key_id]
    path.write_text("nothing")
    with pytest.raises(MeshError, match="restore it"):
        services.ensure_sealing_key(made)


def test_looking_makes_no_folder(folder: Path) -> None:
    """A command that looks at a mesh leaves nothing behind where a path was mistyped."""
    with pytest.raises(MeshError, match="No mesh was started"):
        find_state(folder)
    assert not folder.exists()


def test_looking_needs_no_space(made: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mesh on a full disk can be looked at and stopped; starting one there is refused with both figures."""
    usage = shutil.disk_usage(made.root)._replace(free=10 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    assert find_state(made.root) == made
    with pytest.raises(MeshError, match="10 MiB free; the mesh needs 500 MiB"):
        open_state(made.root)


def test_a_folder_with_other_files_is_left_alone(folder: Path) -> None:
    """Nothing is put beside somebody's documents."""
    folder.mkdir()
    (folder / "thesis.tex").touch()
    with pytest.raises(MeshError, match=r"holds other files \(thesis.tex"):
        open_state(folder)


@pytest.mark.parametrize("content", [b"2\n", b"", b"\xff\xfe"])
def test_another_layout_is_refused(made: State, content: bytes) -> None:
    """What another version made is not touched, by no command."""
    (made.root / "florin-state").write_bytes(content)
    for opened in (open_state, find_state):
        with pytest.raises(MeshError, match="another version"):
            opened(made.root)


def test_a_file_in_the_folders_place_is_a_sentence(folder: Path) -> None:
    """The path of a file cannot be a state folder."""
    folder.touch()
    for opened in (open_state, find_state):
        with pytest.raises(MeshError, match="cannot be used: a file is in its place"):
            opened(folder)


def test_one_process_holds_a_folder_and_says_who_it_is(made: State) -> None:
    """A second one is refused, and others learn the holder's process id while it lives."""
    process = holder(made)
    try:
        assert state.running_supervisor(made) == process.pid
        with pytest.raises(MeshError, match=r"runs in .* already"):
            state.lock(made, seconds=0)
    finally:
        process.terminate()
        process.wait(10)
    assert state.running_supervisor(made) is None
    state.lock(made).close()


def test_looking_at_the_lock_does_not_take_it_from_a_start(made: State) -> None:
    """A start waits for those who only look."""
    import fcntl

    with (made.root / "lock").open("a+") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        with pytest.raises(MeshError):
            state.lock(made, seconds=0.1)
    state.lock(made, seconds=0.1).close()


def test_what_a_killed_mesh_left_behind_is_no_running_mesh(made: State) -> None:
    """Its description names process ids that may be anybody's by now: nobody is shown them, nobody is signalled."""
    bystander = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        made.description.write_text(f'{{"supervisor": {bystander.pid}, "port": 1}}')
        with pytest.raises(MeshError, match="No mesh runs"):
            made.read_description()
        assert mesh.end(made) is False
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait(10)


def test_a_mesh_that_is_still_starting_is_stopped(made: State) -> None:
    """The one who holds the folder is signalled, whether it has described itself or not."""
    process = holder(made)
    with pytest.raises(MeshError, match="still starting"):
        made.read_description()
    assert mesh.end(made, seconds=10) is True
    assert process.wait(10) == 0


def test_one_that_does_not_stop_is_named(made: State) -> None:
    """After the time is over the sentence says which process it is."""
    process = holder(made)
    try:
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(MeshError, match=f"did not stop .*supervisor {process.pid}"):
            mesh.end(made, seconds=0.3)
    finally:
        process.kill()
        process.wait(10)


def test_a_damaged_description_is_a_sentence(made: State) -> None:
    """Half a file names the way out."""
    process = holder(made)
    try:
        made.description.write_text('{"port": 84')
        with pytest.raises(MeshError, match="is damaged; stop the mesh"):
            made.read_description()
    finally:
        process.terminate()
        process.wait(10)


def test_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    """A socket's path has at most 107 bytes, whatever the state folder's has; two folders have two sockets."""
    long = State(tmp_path / ("x" * 100))
    other = State(tmp_path / ("y" * 100))
    assert len(str(long.socket_folder() / ".s.PGSQL.5432")) < 107
    assert long.socket_folder() != other.socket_folder()
    assert State(Path("/srv/mesh")).socket_folder() == Path("/srv/mesh/postgres/run")
