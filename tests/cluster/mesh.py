"""Florin in a namespace of a cluster, installed by Helm as docs/deploy.md says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from local.state import SERVICES, State
from tests.cluster.kubectl import Kubectl, Object, is_ready, until
from tests.support.charts import ROOT, Charts

FLORIN = Path(sys.executable).with_name("florin")
INSTALL_SECONDS = 600
RELEASE = "florin"
VERSION = yaml.safe_load((ROOT / "charts" / "florin" / "Chart.yaml").read_text())["appVersion"]
VALUES = ("--set", "edge.expose.type=NodePort,edge.shutdown.drainSeconds=9")
"""The tests call from outside of the cluster, over connections that do not live long."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """An installation: the cluster, the charts, and the folder of `florin deploy secrets`."""

    kubectl: Kubectl
    charts: Charts
    state: State

    def secrets(self) -> None:
        """Makes the secrets, by the documented command."""
        made = self._florin(
            *("deploy", "secrets", "--folder", str(self.state.root), "--namespace", self.kubectl.namespace)
        )
        assert made.returncode == 0, made.stderr
        self.kubectl("apply", "--filename=-", stdin=made.stdout)

    def helm(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs Helm in the namespace. Raises AssertionError with all that it said, unless told not to."""
        done = self.charts.run(
            *arguments,
            "--namespace",
            self.kubectl.namespace,
            cluster=self.kubectl.kubeconfig,
            seconds=INSTALL_SECONDS + 60,
        )
        assert done.returncode == 0 or not check, f"helm {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done

    def upgrade(self, *values: str, seconds: int = INSTALL_SECONDS, check: bool = True) -> bool:
        """Upgrades the release, with what was set before; where that fails it goes back by itself. Gives whether it did
        what was asked."""
        done = self.helm(
            *("upgrade", RELEASE, "florin", "--reset-then-reuse-values", "--wait", "--rollback-on-failure"),
            *("--timeout", f"{seconds}s", *(part for value in values for part in ("--set", value))),
            check=check,
        )
        return done.returncode == 0

    def canary(self, *arguments: str) -> str:
        """`florin deploy canary` here; gives what it says. Raises AssertionError."""
        charts = self.charts.folder / "charts"
        done = self._florin(
            *("deploy", "canary", *arguments, "--namespace", self.kubectl.namespace, "--charts", str(charts)),
            environment={**self.charts.environment(self.kubectl.kubeconfig), "HELM": str(self.charts.helm)},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def edge(self) -> str:
        """HOST:PORT of the edge from outside of the cluster."""
        port = self.kubectl.get("service", "edge")[0]["spec"]["ports"][0]["nodePort"]
        addresses = self.kubectl.get("nodes")[0]["status"]["addresses"]
        return f"{next(one['address'] for one in addresses if one['type'] == 'InternalIP')}:{port}"

    def scale(self, name: str, replicas: int) -> None:
        """Sets the number of pods and waits until just they are there, all ready."""
        self.kubectl("scale", f"deployment/{name}", f"--replicas={replicas}")
        self.settled(name, replicas)

    def settled(self, name: str, replicas: int, seconds: float = 180.0) -> list[Object]:
        """Waits for so many pods of something, all ready, and none that goes. Gives them."""
        of_it = f"--selector=app.kubernetes.io/name={name},app.kubernetes.io/component!=migration"

        def found() -> list[Object] | None:
            pods = self.kubectl.get("pods", of_it)
            done = len(pods) == replicas and all(map(is_ready, pods)) and len(self.kubectl.pods(name)) == replicas
            return pods if done else None

        return until(f"{replicas} ready pods of {name} alone", found, seconds)

    def started(self) -> dict[str, str]:
        """Each pod of the mesh and when its container was started."""
        return {
            pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
            for name in (*SERVICES, "edge", "nats", "postgres")
            for pod in self.kubectl.pods(name)
        }

    def verify(self) -> str:
        """`florin verify` on the cluster's databases; gives what it says. Raises AssertionError."""
        with self.kubectl.forwarded("pod/postgres-0", 5432) as port:
            environment = {}
            for service in SERVICES:
                name = f"{service.upper()}_OWNER_DATABASE"
                # The certificate has the names that it is reached by in the cluster.
                where = f"127.0.0.1:{port}/{service}?sslmode=verify-ca&sslrootcert={self.state.ca}"
                environment[f"{name}_URL"] = f"postgresql+psycopg://{service}_owner@{where}"
                environment[f"{name}_PASSWORD_FILE"] = str(self.state.secrets / f"postgres-{service}_owner")
            environment["ACCOUNTS_SEALING_KEY_FILE"] = str(self.state.sealing_keys)
            done = self._florin("verify", environment=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def picture(self) -> str:
        """What a person would look at first when something is not as it should be."""
        asked = (
            ("get", "pods", "--output=wide"),
            ("get", "events", "--sort-by=.lastTimestamp", "--field-selector=type!=Normal"),
            ("logs", "--all-containers", "--tail=15", "--prefix", "--selector=app.kubernetes.io/part-of=florin"),
        )
        return "\n".join(self.kubectl(*command, check=False)[-8000:] for command in asked)

    def _florin(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(FLORIN), *arguments],
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=INSTALL_SECONDS,
        )
