"""kubectl, and what of a cluster the tests look at with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.processes import free_port

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kubectl:
    """The program and the cluster; the namespace is that of all commands that name none."""

    program: Path
    kubeconfig: Path
    namespace: str = "default"

    @property
    def environment(self) -> dict[str, str]:
        """That of programs which use the cluster."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def __call__(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """What it prints. Raises AssertionError where it fails, unless told not to."""
        return self._run("--namespace", self.namespace, *arguments, stdin=stdin, check=check)

    def _run(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        done = subprocess.run(
            [str(self.program), *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not check, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def apply(self, objects: Sequence[Object]) -> None:
        """Has the cluster hold these objects, each in the namespace that it names."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self._run("apply", "--server-side", "--filename=-", stdin=json.dumps(listed))

    def get(self, kind: str, *arguments: str) -> list[Object]:
        """Objects of a kind, by a selector or names."""
        found = json.loads(self("get", kind, "--output=json", *arguments))
        items: list[Object] = found["items"] if found["kind"] == "List" else [found]
        return items

    def pods(self, name: str) -> list[Object]:
        """The pods of a service, the edge, NATS or PostgreSQL that are not on their way out."""
        of_it = f"app.kubernetes.io/name={name},app.kubernetes.io/component in (service,edge,broker,database)"
        return [pod for pod in self.get("pods", f"--selector={of_it}") if "deletionTimestamp" not in pod["metadata"]]

    @contextmanager
    def forwarded(self, target: str, port: int) -> Iterator[int]:
        """A port of this machine that leads to one of a pod."""
        here = free_port()
        process = subprocess.Popen(
            [str(self.program), "--namespace", self.namespace, "port-forward", target, f"{here}:{port}"],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said.startswith("Forwarding from"), said
            yield here
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def is_ready(pod: Object) -> bool:
    """Whether it takes calls."""
    conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True"


def restarts(pod: Object) -> int:
    """How often containers of it were started again."""
    return sum(one["restartCount"] for one in pod["status"].get("containerStatuses", []))


def until[T](what: str, find: Callable[[], T | None], seconds: float = 120.0) -> T:
    """Asks again until there is something. Raises AssertionError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := find():
            return found
        time.sleep(0.2)
    raise AssertionError(f"no {what} within {seconds:g} s")
