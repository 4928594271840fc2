"""A mesh of an ordinary user: everything runs as that user, in the usual place of that user's home."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from local.state import State, reachable
from tests.support.commands import processes_of, state_folder, wait_nothing_left
from tests.support.mesh import FLORIN

ROOT = Path(__file__).resolve().parents[2]
USER = "nobody"


@dataclass(frozen=True, slots=True)
class Person:
    """An account that is not root's, and how it runs `florin`."""

    uid: int
    home: Path
    command: tuple[str, ...]
    environment: Mapping[str, str]

    @property
    def state(self) -> Path:
        """Where a mesh stands when this person says nothing."""
        return self.home / ".local" / "state" / "florin" / "default"

    def florin(self, *arguments: str, seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        """The `florin` command of this person, run to its end."""
        command = [*self.command, *arguments]
        return subprocess.run(
            command, env=self.environment, cwd="/", capture_output=True, text=True, timeout=seconds, check=False
        )


@pytest.fixture
def person() -> Iterator[Person]:
    """Ourselves, or, where we are root, an unprivileged account with a home of its own."""
    with state_folder() as state:
        home = state.parent / "home"
        home.mkdir(mode=0o755)
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        environment = {**kept, "HOME": str(home)}
        if os.geteuid() != 0:
            yield Person(os.geteuid(), home, (str(FLORIN),), environment)
            return
        account = pwd.getpwnam(USER)
        os.chown(home, account.pw_uid, account.pw_gid)
        florin, more = installed_for_others(state.parent)
        drop = ("setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", "--no-new-privs")
        yield Person(account.pw_uid, home, (*drop, str(florin)), {**environment, **more})


def installed_for_others(folder: Path) -> tuple[Path, Mapping[str, str]]:
    """A `florin` that every account can run: this one, or one on a copy of an interpreter that stands in a closed home.

    Packages and checkout are used where they are; they must be readable to all.
    """
    if reachable(Path(sys.executable).resolve()):
        return FLORIN, {}
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base, copy, venv = Path(sys.base_prefix), folder / "python", folder / "venv"
    (copy / "bin").mkdir(parents=True)
    shutil.copy2(Path(sys.executable).resolve(), copy / "bin" / version)
    unneeded = shutil.ignore_patterns("test", "site-packages", "__pycache__", "config-*")
    shutil.copytree(base / "lib" / version, copy / "lib" / version, ignore=unneeded)
    for library in (base / "lib").glob("libpython*.so*"):
        shutil.copy2(library, copy / "lib")
    (venv / "bin").mkdir(parents=True)
    (venv / "lib" / version).mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text(f"home = {copy / 'bin'}\ninclude-system-site-packages = false\n")
    (venv / "bin" / "python").symlink_to(copy / "bin" / version)
    (venv / "lib" / version / "site-packages").symlink_to(Path(sys.prefix) / "lib" / version / "site-packages")
    script = FLORIN.read_text().splitlines(keepends=True)
    florin = venv / "bin" / "florin"
    florin.write_text("".join([f"#!{venv / 'bin' / 'python'}\n", *script[1:]]))
    florin.chmod(0o755)
    return florin, {"LD_LIBRARY_PATH": str(copy / "lib")}


def owner(pid: int) -> int:
    """The effective user of a process."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Uid:"))
    return int(line.split()[2])


@pytest.mark.timeout(240)
def test_an_ordinary_user_has_a_mesh_of_their_own(person: Person) -> None:
    """Up, a call with a token of theirs, verify, down, as one who may write nothing but their home; all processes and
    files are theirs."""
    assert reachable(ROOT), "the checkout has to be readable to other accounts"
    up = person.florin("up", "--detach", "--port", "0")
    assert up.returncode == 0, up.stdout + up.stderr
    assert str(person.state) in up.stdout
    found = json.loads(person.florin("status", "--json").stdout)
    assert all(process["ready"] for process in found["processes"].values())
    running = processes_of(person.state)
    assert set(running) >= {process["pid"] for process in found["processes"].values()}
    assert {owner(pid) for pid in running} == {person.uid}
    foreign = [str(path) for path in person.state.rglob("*") if path.lstat().st_uid != person.uid]
    assert foreign == []
    state = State(person.state)
    assert (state.secrets.stat().st_mode & 0o777, (state.root / "certs").stat().st_mode & 0o777) == (0o700, 0o700)

    made = person.florin("tenants", "create", "acme")
    assert (made.returncode, made.stdout) == (0, "tenants/acme made\n")
    verdict = person.florin("verify")
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    assert person.florin("down").stdout == "stopped\n"
    wait_nothing_left(person.state, 5)


@pytest.mark.timeout(60)
def test_a_folder_of_somebody_else_is_refused_in_a_sentence(person: Person, tmp_path: Path) -> None:
    """A place that this person may not write to, and one that may not even be looked into."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a folder that this account may not use")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for arguments in (("up", "--port", "0"), ("status",), ("down",)):
        done = person.florin(*arguments, "--state", str(closed / "state"))
        assert done.returncode == 1
        assert done.stderr.strip() == f"The state folder {closed / 'state'} cannot be used: Permission denied."
