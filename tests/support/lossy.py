"""A proxy before the edge that loses an answer when it is told to; it does not know what it carries.

It is told over a port of its own, so that a program in any language can: a line with a word, answered with "ok".
"cut": from now on answers are withheld; when what they answer is done, the connections are broken. "break": every
connection is broken at once.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_CHUNK = 65536


@dataclass
class Lossy:
    """The proxy; `target` is the port it leads to, `count` counts what is done behind it."""

    target: int
    count: Callable[[], int]
    cuts: int = 0
    port: int = 0
    control: int = 0
    _withholding: threading.Event = field(default_factory=threading.Event)
    _sockets: set[socket.socket] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, listener: socket.socket) -> None:
        """Takes connections until the listener is closed."""
        for client in _accepted(listener):
            server = socket.create_connection(("127.0.0.1", self.target), timeout=10)
            server.settimeout(None)
            with self._lock:
                self._sockets |= {client, server}
            threading.Thread(target=self._carry, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._carry, args=(server, client, True), daemon=True).start()

    def obey(self, listener: socket.socket) -> None:
        """Takes words until the listener is closed."""
        for caller in _accepted(listener):
            word = caller.makefile().readline().strip()
            if word == "cut":
                before = self.count()
                self._withholding.set()
                threading.Thread(target=self._cut_after, args=(before,), daemon=True).start()
            elif word == "break":
                self._break()
            caller.sendall(b"ok\n" if word in {"cut", "break"} else b"?\n")
            caller.close()

    def _cut_after(self, before: int) -> None:
        """Breaks the connections as soon as one more thing is done."""
        deadline = time.monotonic() + 30
        while self.count() <= before and time.monotonic() < deadline:
            time.sleep(0.02)
        self.cuts += self.count() > before
        self._break()
        self._withholding.clear()

    def _break(self) -> None:
        with self._lock:
            broken, self._sockets = self._sockets, set()
        for one in broken:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _carry(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                if not (answers and self._withholding.is_set()):
                    sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


@contextmanager
def running(target: int, count: Callable[[], int]) -> Iterator[Lossy]:
    """A proxy on a free port, gone afterwards with its connections."""
    proxy = Lossy(target, count)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as control:
        proxy.port, proxy.control = listener.getsockname()[1], control.getsockname()[1]
        threading.Thread(target=proxy.serve, args=(listener,), daemon=True).start()
        threading.Thread(target=proxy.obey, args=(control,), daemon=True).start()
        try:
            yield proxy
        finally:
            for one in (listener, control):
                one.shutdown(socket.SHUT_RDWR)
            proxy._break()


def _accepted(listener: socket.socket) -> Iterator[socket.socket]:
    with suppress(OSError):
        while True:
            yield listener.accept()[0]
