"""The rail of ISO 20022 files in a folder for each tenant, which an SFTP server or client carries from there.

```
<folder>/<tenant>/out        pacs.008.001.08, each whole as soon as it has its name
<folder>/<tenant>/in         pacs.002.001.10 and camt.054.001.08 are put here
<folder>/<tenant>/claimed    taken out of `in`, and being read
<folder>/<tenant>/processed  done with
<folder>/<tenant>/rejected   refused, each with a file that says why
```
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from meshkit import logs, safe_xml
from meshkit.safe_xml import FileMalformed, FileRefused, FileTooLarge
from transactions.rails import pacs008, reading
from transactions.rails.port import Content, Incoming, OutgoingPayment
from transactions.recurrence import local_day

_FOLDERS = ("out", "in", "claimed", "processed", "rejected")
_TENANT = re.compile(r"[a-z][a-z0-9-]{0,30}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_NAME_MAX = 120
_UNFINISHED = (".part", ".tmp", ".filepart")
"""What programs that copy files call one that is not whole yet; so are those whose names begin with a point."""
_log = logs.get(__name__)


class FolderRail:
    """The rail of one folder. `settle_seconds` is how long a file may be broken: it may still be written."""

    def __init__(self, folder: Path, bic: str, time_zone: str, settle_seconds: float) -> None:
        self._folder = folder
        self._bic = bic
        self._time_zone = time_zone
        self._settle_seconds = settle_seconds

    def compose(self, message_id: str, moment: datetime, payments: Sequence[OutgoingPayment]) -> bytes:
        """See the protocol."""
        return pacs008.compose(message_id, moment, local_day(moment, self._time_zone), self._bic, payments)

    def send(self, tenant: str, message_id: str, data: bytes) -> None:
        """See the protocol. A file that was taken away before this was recorded is written once more, the same bytes
        under the same name and MsgId. Raises FileExistsError where another one has its name, and OSError."""
        folder = self._made(tenant) / "out"
        final = folder / f"{message_id}.xml"
        if final.exists():
            if final.read_bytes() != data:
                raise FileExistsError(f"{final} has other contents")
        else:
            _write(final, data)
        _sync_folder(folder)
        for left in folder.glob(f".{message_id}.*.part"):
            left.unlink(missing_ok=True)  # of a process that died; one that lives finds the file in its place

    def incoming(self, skip: frozenset[str]) -> Iterator[Incoming]:
        """See the protocol. Tenants take turns."""
        if not self._folder.is_dir():
            return
        tenants = sorted(path.name for path in self._folder.iterdir() if path.is_dir())
        waiting = [self._incoming_of(tenant, skip) for tenant in tenants if _TENANT.fullmatch(tenant)]
        while waiting:
            for tenants_own in list(waiting):
                found = next(tenants_own, None)
                if found is None:
                    waiting.remove(tenants_own)
                else:
                    yield found

    def _incoming_of(self, tenant: str, skip: frozenset[str]) -> Iterator[Incoming]:
        """A file is taken out of `in` first: what is put there later under its name is another."""
        try:
            folder = self._made(tenant)
            _claim(folder)
            claimed = sorted((folder / "claimed").iterdir())
        except OSError as error:  # of this tenant's folder: the others' go on
            _log.error("a tenant's folder of the rail cannot be read", tenant=tenant, exc_info=error)
            return
        for path in claimed:
            if str(path) in skip:
                continue
            try:
                found = self._read(tenant, path)
            except FileNotFoundError:
                continue  # another replica was faster
            except Exception as error:  # noqa: BLE001 - a fault of ours at one file holds up no others
                _log.error("a file of the rail cannot be read", tenant=tenant, file=path.name, exc_info=error)
                continue
            if found is not None:
                yield found

    def file_away(self, incoming: Incoming) -> None:
        """See the protocol."""
        source = Path(incoming.place)
        folder = source.parent.parent
        if incoming.content is None:
            reason = folder / "rejected" / f"{source.name}.reason.txt"
            _write(reason, f"{incoming.refusal}.\n".encode())
        try:
            source.replace(folder / ("processed" if incoming.content is not None else "rejected") / source.name)
        except FileNotFoundError:
            return  # another replica was faster

    def _read(self, tenant: str, path: Path) -> Incoming | None:
        """What a claimed file is; None where it may still be written."""
        content: Content | None = None
        refusal = ""
        digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()
        try:
            data, changed = _bytes(path)
            digest = hashlib.sha256(data).hexdigest()
            content = reading.read(data)
        except FileMalformed as error:
            # The clocks of a network's folder may be ahead of ours.
            if abs(time.time() - changed) < self._settle_seconds:
                return None
            refusal = _sentence(error)
        except FileRefused as error:
            refusal = _sentence(error)
        return Incoming(tenant, path.name, digest, str(path), content, refusal)

    def _made(self, tenant: str) -> Path:
        """A tenant's folder with those in it. Raises NotADirectoryError where one is a link, which might lead into
        another tenant's, and OSError."""
        folder = self._folder / tenant
        for name in _FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True, mode=0o770)
            if (folder / name).is_symlink():
                raise NotADirectoryError(f"{folder / name} is a link")
        return folder


def _claim(folder: Path) -> None:
    """Takes what is whole out of `in`, under names that are all different and tell the order."""
    for path in sorted((folder / "in").iterdir()):
        if path.name.startswith(".") or path.name.lower().endswith(_UNFINISHED):
            continue
        name = f"{time.time_ns():020d}-{_UNSAFE.sub('_', path.name)[:_NAME_MAX]}"
        try:
            path.rename(folder / "claimed" / name)
        except FileNotFoundError:
            continue  # another replica was faster
        except OSError as error:
            _log.error("a file of the rail cannot be claimed", file=name, exc_info=error)


def _bytes(path: Path) -> tuple[bytes, float]:
    """A file's bytes, and when it changed last. Raises FileRefused for what is none or too large, OSError."""
    # Neither a link to a file of somebody else's is followed, nor a pipe waited for.
    if not stat.S_ISREG(path.lstat().st_mode):
        raise reading.ContentRefused("it is no regular file")
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
        known = os.fstat(file.fileno())
        if known.st_size > safe_xml.BYTES_MAX:
            raise FileTooLarge(known.st_size, safe_xml.BYTES_MAX)
        return file.read(safe_xml.BYTES_MAX + 1), known.st_mtime


def _sentence(error: FileRefused) -> str:
    return str(error).rstrip(".")


def _write(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all, whatever lies under its name: no link is followed."""
    part = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb", opener=_private) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    """Opens a file that names people: its owner and group alone read it."""
    return os.open(path, flags, 0o640)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
