"""A real Kubernetes API server with its etcd, and nothing else of a cluster: what it refuses, every cluster refuses."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from local import certs, issuer
from local.processes import free_port
from local.state import State

Manifest = dict[str, Any]
START_SECONDS = 120.0
TOKEN = "tests"


@dataclass(frozen=True, slots=True)
class ApiServer:
    """A server that runs."""

    port: int
    ca: Path

    def call(self, method: str, path: str, body: Manifest | None = None) -> Manifest:
        """One call as its administrator. Raises Refused."""
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {TOKEN}", "content-type": "application/json"},
        )
        context = ssl.create_default_context(cafile=str(self.ca))
        try:
            with urllib.request.urlopen(request, context=context, timeout=30) as answer:
                made: Manifest = json.load(answer)
                return made
        except urllib.error.HTTPError as error:
            raise Refused(error.code, json.load(error)["message"]) from None

    def kubeconfig(self, path: Path) -> Path:
        """Writes how to reach it, for programs."""
        cluster = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": str(self.ca)}
        made = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "tests", "user": {"token": TOKEN}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
            "current-context": "tests",
        }
        path.write_text(json.dumps(made))
        return path

    def try_on(self, manifest: Manifest) -> None:
        """Has the server judge an object as if it were created, strictly, without keeping it. Raises Refused."""
        group = manifest["apiVersion"]
        base = f"/api/{group}" if "/" not in group else f"/apis/{group}"
        found = {one["kind"]: one for one in self.call("GET", base)["resources"] if "/" not in one["name"]}
        kind = found[manifest["kind"]]
        place = f"/namespaces/{manifest['metadata']['namespace']}" if kind["namespaced"] else ""
        self.call("POST", f"{base}{place}/{kind['name']}?dryRun=All&fieldValidation=Strict", manifest)


class Refused(Exception):
    """The server said no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")


@contextmanager
def running(binary: Path, folder: Path) -> Iterator[ApiServer]:
    """etcd and the server, started in a folder of their own, and stopped at the end."""
    port, etcd, peers = free_port(), free_port(), free_port()
    state = State(folder)
    for name in ("secrets", "certs", "bin"):
        (folder / name).mkdir()
    certs.ensure(state, {"kube-apiserver": (), "service-accounts": ()})
    issuer.ensure(state)
    (folder / "tokens.csv").write_text(f"{TOKEN},admin,1,system:masters\n")
    for name in ("etcd", "kube-apiserver"):
        (folder / "bin" / name).symlink_to(binary)
    certificate, key = state.certificate("kube-apiserver")
    accounts_certificate, accounts_key = state.certificate("service-accounts")
    public = folder / "service-accounts.pub"
    key_of_accounts = x509.load_pem_x509_certificate(accounts_certificate.read_bytes()).public_key()
    public.write_bytes(key_of_accounts.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    store = [
        *(str(folder / "bin" / "etcd"), "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync", "--log-level=error"),
        *(f"--listen-client-urls=http://127.0.0.1:{etcd}", f"--advertise-client-urls=http://127.0.0.1:{etcd}"),
        *(f"--listen-peer-urls=http://127.0.0.1:{peers}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}"),
        f"--initial-cluster=default=http://127.0.0.1:{peers}",
    ]
    server = [
        str(folder / "bin" / "kube-apiserver"),
        *(f"--etcd-servers=http://127.0.0.1:{etcd}", "--bind-address=127.0.0.1", f"--secure-port={port}"),
        *(f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}"),
        *(f"--token-auth-file={folder / 'tokens.csv'}", "--authorization-mode=RBAC"),
        *("--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={public}"),
        *(f"--service-account-signing-key-file={accounts_key}", "--service-cluster-ip-range=10.96.0.0/16"),
        # What no controller is here to give a namespace.
        "--disable-admission-plugins=ServiceAccount",
    ]
    started: list[subprocess.Popen[bytes]] = []
    with (folder / "log").open("wb") as log:
        try:
            # The server waits for its store by itself.
            started.append(subprocess.Popen(store, stdout=log, stderr=log, cwd=folder))
            started.append(subprocess.Popen(server, stdout=log, stderr=log, cwd=folder))
            made = ApiServer(port, state.ca)
            _wait(made, started, folder / "log")
            yield made
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(10)


def _wait(server: ApiServer, started: list[subprocess.Popen[bytes]], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert all(process.poll() is None for process in started), log.read_text(errors="replace")[-3000:]
        with contextlib.suppress(Refused, OSError):
            server.call("GET", "/api/v1/namespaces/default")
            return
        time.sleep(0.2)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


def binary() -> Path:
    """The program that `make cluster` builds. Raises AssertionError where there is none."""
    found = os.environ.get("FLORIN_KUBERNETES") or shutil.which("kube-apiserver")
    assert found, "no Kubernetes: run `make cluster`, which builds it"
    return Path(found)
