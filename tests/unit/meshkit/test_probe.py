"""The command by which a container knows whether its service is ready."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from meshkit import probe


class Answers(BaseHTTPRequestHandler):
    """A health port that answers as it is told."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()
        self.wfile.write(b'{"failures": {"database": "OperationalError"}}')

    def log_message(self, *_arguments: Any) -> None:
        """Says nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """A health port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_exit_code_is_whether_the_service_is_ready(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], port: int, status: int, code: int
) -> None:
    """And what it said is shown, which names what is missing."""
    monkeypatch.setattr(Answers, "status", status)
    monkeypatch.setenv("FLORIN_SERVICE", "accounts")
    monkeypatch.setenv("ACCOUNTS_HEALTH_PORT", str(port))
    assert probe.main() == code
    assert "OperationalError" in capsys.readouterr().out


def test_a_service_that_does_not_answer_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that nobody names."""
    monkeypatch.setenv("FLORIN_SERVICE", "accounts")
    monkeypatch.setenv("ACCOUNTS_HEALTH_PORT", "1")
    assert probe.main() == 1
    monkeypatch.delenv("ACCOUNTS_HEALTH_PORT")
    assert probe.main() == 1


def test_it_imports_nothing_that_a_service_does() -> None:
    """It runs every few seconds, beside the service."""
    heavy = ("grpc", "pydantic", "google", "asyncio")
    script = f"import sys, meshkit.probe; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
