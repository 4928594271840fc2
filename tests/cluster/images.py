"""Florin's images, built as anybody builds them, and pushed to where a cluster has them from."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from tests.support.charts import ROOT, SERVICES

EVERY = (*SERVICES, "checker", "operator", "edge")


@dataclass(frozen=True, slots=True)
class Images:
    """A registry and what reaches it."""

    registry: str
    environment: Mapping[str, str]
    """Of `make images` and docker."""
    arguments: str = ""
    """More for each build."""

    def publish(self, version: str, *names: str) -> None:
        """Builds these images, or all, with a version, and pushes them. Raises AssertionError."""
        prefix = f"{self.registry}/florin"
        self._run(
            *("make", "--no-print-directory", "images", "BUILDER=docker", f"IMAGES={prefix}", f"VERSION={version}"),
            *(f"IMAGE={' '.join(names or EVERY)}", f"IMAGE_ARGS={self.arguments}"),
        )
        for name in names or EVERY:
            self._run("docker", "push", "--quiet", f"{prefix}/{name}:{version}")

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command, cwd=ROOT, env=dict(self.environment), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
