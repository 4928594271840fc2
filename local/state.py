"""The folder of one mesh: where everything stands in it, who may run it, and whether it can be used."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import secrets
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

SERVICES = ("accounts", "transactions", "compliance", "notifications")
FREE_BYTES_MIN = 500 * 1024 * 1024
_MARKER, _LAYOUT = "florin-state", "1\n"
_SOCKET_PATH_MAX = 90  # sun_path has 107 bytes; the socket's own name needs some of them


class MeshError(Exception):
    """Something that the person at the keyboard can mend; its text is one clear sentence."""


@dataclass(frozen=True, slots=True)
class State:
    """Paths below the state folder."""

    root: Path

    @property
    def ca(self) -> Path:
        """The certificate that clients trust."""
        return self.root / "ca.pem"

    @property
    def sealing_keys(self) -> Path:
        """The public keys that the heads of sealed history are signed with, for whoever verifies it."""
        return self.root / "sealing-public.pem"

    @property
    def secrets(self) -> Path:
        """Passwords and keys, readable by the owner alone."""
        return self.root / "secrets"

    @property
    def logs(self) -> Path:
        """One log a process."""
        return self.root / "logs"

    @property
    def description(self) -> Path:
        """What runs where, written when the mesh is ready."""
        return self.root / "mesh.json"

    @property
    def rail(self) -> Path:
        """The folder of the rail to other banks, with one for each tenant in it."""
        return self.root / "rail"

    @property
    def clock(self) -> Path:
        """How far the time of a sandbox is moved; there is none for another mesh."""
        return self.root / "clock.json"

    def certificate(self, identity: str) -> tuple[Path, Path]:
        """Certificate and key of an identity."""
        folder = self.root / "certs" / identity
        return folder / "cert.pem", folder / "key.pem"

    def socket_folder(self) -> Path:
        """Where PostgreSQL's socket is: in the state folder, or in a short path when that one is too long."""
        inside = self.root / "postgres" / "run"
        if len(str(inside)) <= _SOCKET_PATH_MAX:
            return inside
        digest = hashlib.sha256(str(self.root).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"florin-{digest}"

    def secret(self, name: str, make: Any = None) -> Path:
        """The file of a secret; made at first use, 0600."""
        path = self.secrets / name
        if not path.exists():
            value = make() if make is not None else secrets.token_urlsafe(24)
            write_private(path, value)
        return path

    def read_description(self) -> dict[str, Any]:
        """What runs where. Raises MeshError when no mesh runs here, or when it is not ready yet."""
        supervisor = running_supervisor(self)
        if supervisor is None:
            # A mesh that was killed leaves its description, whose process ids may be anybody's by now.
            raise MeshError(f"No mesh runs in {self.root}; start one with `florin up`.")
        try:
            description: dict[str, Any] = json.loads(self.description.read_text())
        except FileNotFoundError:
            raise MeshError(f"The mesh in {self.root} is still starting, or stopping.") from None
        except ValueError:
            raise MeshError(
                f"{self.description} is damaged; stop the mesh with `florin down`, then start it."
            ) from None
        return description


def default_root() -> Path:
    """Where a mesh stands when nobody says: $FLORIN_STATE, or the usual place of the user."""
    if "FLORIN_STATE" in os.environ:
        return Path(os.environ["FLORIN_STATE"])
    if os.geteuid() == 0:
        # PostgreSQL refuses root and runs as `nobody`, who cannot look into root's home.
        return Path("/var/lib/florin/default")
    return Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state")) / "florin" / "default"


def _unusable(root: Path, error: OSError) -> MeshError:
    why = "a file is in its place" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
    return MeshError(f"The state folder {root} cannot be used: {why}.")


def find_state(root: Path) -> State:
    """The folder of a mesh that was started before. Raises MeshError when it is none.

    It makes nothing and asks for no space: who looks at a mesh or stops it must be able to on a full disk.
    """
    root = root.expanduser().resolve()
    try:
        _check_marker(root)
    except FileNotFoundError:
        raise MeshError(f"No mesh was started in {root} yet; start one with `florin up`.") from None
    except OSError as error:
        raise _unusable(root, error) from None
    return State(root)


def open_state(root: Path) -> State:
    """Makes or checks the folder of a mesh that is to be started. Raises MeshError with what is wrong with it."""
    root = root.expanduser().resolve()
    try:
        root.mkdir(parents=True, exist_ok=True)
        for name in ("secrets", "logs", "certs"):
            (root / name).mkdir(exist_ok=True)
            # Logs name callers, their addresses and what they called.
            (root / name).chmod(0o700)
    except OSError as error:
        raise _unusable(root, error) from None
    free = shutil.disk_usage(root).free
    if free < FREE_BYTES_MIN:
        raise MeshError(f"{root} has {free // 2**20} MiB free; the mesh needs {FREE_BYTES_MIN // 2**20} MiB.")
    try:
        _check_marker(root)
    except FileNotFoundError:
        foreign = [path.name for path in root.iterdir() if path.name not in {"secrets", "logs", "certs", "lock"}]
        if foreign:
            raise MeshError(
                f"{root} holds other files ({foreign[0]}, …); give --state an empty or new folder."
            ) from None
        write_private(root / _MARKER, _LAYOUT)
    if os.geteuid() == 0:
        _check_reachable(root)
        root.chmod(root.stat().st_mode | 0o011)
    return State(root)


def lock(state: State, seconds: float = 1.0) -> IO[str]:
    """Holds the folder for this process, whose id then stands in the file. Raises MeshError when a mesh runs in it."""
    handle = (state.root / "lock").open("a+")
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            # Whoever only looks whether a mesh runs holds it for a moment.
            if time.monotonic() > deadline:
                handle.close()
                raise MeshError(
                    f"A mesh runs in {state.root} already; `florin down --state {state.root}` stops it."
                ) from None
            time.sleep(0.02)
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def running_supervisor(state: State) -> int | None:
    """The process that holds the folder, 0 when it has not said yet who it is; None when no mesh runs in it."""
    try:
        with (state.root / "lock").open() as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(handle.read().strip() or 0)
    except FileNotFoundError:
        pass
    return None


def is_locked(state: State) -> bool:
    """Whether a mesh runs in the folder."""
    return running_supervisor(state) is not None


def write_private(path: Path, value: str) -> None:
    """Writes a file that only its owner can read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(value)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def unprivileged_user() -> str:
    """Whom PostgreSQL runs as: "-" for ourselves, or `nobody` when we are root."""
    if os.geteuid() != 0:
        return "-"
    try:
        return pwd.getpwnam("nobody").pw_name
    except KeyError:
        raise MeshError("As root, PostgreSQL runs as the user `nobody`, and this machine has none.") from None


def reachable(path: Path) -> bool:
    """Whether `nobody` can enter every folder down to `path`."""
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents) if folder.is_dir())


def _check_marker(root: Path) -> None:
    """Raises FileNotFoundError where no mesh was started, MeshError where a mesh of another layout was."""
    if (root / _MARKER).read_bytes() != _LAYOUT.encode():
        raise MeshError(f"{root} was made by another version of Florin; give --state a new folder.")


def _check_reachable(root: Path) -> None:
    closed = [folder for folder in root.parents if not folder.stat().st_mode & 0o001]
    if closed:
        raise MeshError(
            f"As root, PostgreSQL runs as the user `nobody`, who cannot enter {closed[0]}; "
            f"use another --state, for example /var/lib/florin/{root.name}."
        )
