"""A version of one service on trial beside the one that runs, with its share of the calls at the edge; done by Helm.

The charts are installed as docs/deploy.md says: all by the umbrella, or each by a release called by the service.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.state import SERVICES, MeshError

TIMEOUT = "10m"


@dataclass(frozen=True, slots=True)
class Canary:
    """What is tried, and where."""

    service: str
    namespace: str
    charts: Path
    """The folder with the charts of this version."""

    @property
    def name(self) -> str:
        """Of its release and its pods."""
        return f"{self.service}-canary"

    def start(self, tag: str, percent: int) -> None:
        """Pods of another version, and then their share of the calls. Raises MeshError."""
        release, values = self._first()
        values |= {"fullnameOverride": self.name, "replicas": 1, "image": {**values["image"], "tag": tag, "digest": ""}}
        values["autoscaling"] = {**values["autoscaling"], "enabled": False}
        values.pop("enabled", None)
        self._helm("upgrade", "--install", self.name, "service", *_WAIT, "--values=-", values=values)
        self._edge(release, (f"service={self.service}", f"percent={percent}"))

    def promote(self) -> str:
        """The service gets the version on trial, and no canary any more. Gives its tag. Raises MeshError."""
        tried = json.loads(self._helm("get", "values", self.name, "--output=json"))
        release, _ = self._first()
        tag = str(tried["image"]["tag"])
        prefix = f"{self.service}." if release == _umbrella(self._releases()) else ""
        chart = "florin" if prefix else "service"
        self._helm("upgrade", release, chart, *_KEPT, "--set", f"{prefix}image.tag={tag},{prefix}image.digest=")
        self.end()
        return tag

    def end(self) -> None:
        """The calls go to the version that ran before; the one on trial goes. Raises MeshError."""
        release, _ = self._first()
        self._edge(release, ("service=",))
        self._helm("uninstall", self.name, *_WAIT)

    def _first(self) -> tuple[str, dict[str, Any]]:
        """The release that the service is called by, and all its values, those of the umbrella's `global` included."""
        if self.service not in SERVICES:
            raise MeshError(f"There is no service {self.service}; they are {', '.join(SERVICES)}.")
        releases = self._releases()
        umbrella = _umbrella(releases)
        release = umbrella or self.service
        if release not in releases:
            raise MeshError(f"No release in {self.namespace} has {self.service}; see `helm list -n {self.namespace}`.")
        values = json.loads(self._helm("get", "values", release, "--all", "--output=json"))
        return release, {"global": values.get("global"), **values[self.service]} if umbrella else values

    def _releases(self) -> dict[str, str]:
        """Release → its chart with its version."""
        listed = json.loads(self._helm("list", "--output=json"))
        return {one["name"]: one["chart"] for one in listed}

    def _edge(self, release: str, told: tuple[str, ...]) -> None:
        umbrella = _umbrella(self._releases())
        sets = ",".join(f"{'edge.' if umbrella else ''}canary.{one}" for one in told)
        where = (release, "florin") if umbrella else ("edge", "edge")
        self._helm("upgrade", *where, *_KEPT, "--set", sets)

    def _helm(self, *arguments: str, values: dict[str, Any] | None = None) -> str:
        program = shutil.which(os.environ.get("HELM", "helm"))
        if program is None:
            raise MeshError("A canary needs helm (helm.sh/docs/intro/install), version 4.")
        done = subprocess.run(
            [program, *arguments, "--namespace", self.namespace],
            cwd=self.charts,
            input=None if values is None else json.dumps(values),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise MeshError(f"helm {' '.join(arguments[:3])}: {done.stderr.strip()}")
        return done.stdout


_WAIT = ("--wait", "--timeout", TIMEOUT)
_KEPT = ("--reset-then-reuse-values", *_WAIT, "--rollback-on-failure")
"""What was set before stays; what does not become ready goes back by itself."""


def _umbrella(releases: dict[str, str]) -> str | None:
    return next((name for name, chart in releases.items() if chart.startswith("florin-")), None)
