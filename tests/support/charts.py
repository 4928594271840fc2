"""Helm, and what it renders, as the tests ask for it."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("accounts", "transactions", "compliance", "notifications")
NAMESPACE = "bank"
SINGLE = ("--set", "tokens.issuer=https://issuer.example", "--set", "tokens.jwksSecret=issuer-keys")
"""What a service needs to be told when it is a release of its own."""

Manifest = dict[str, Any]


def helm() -> Path:
    """The program that `make charts` builds. Raises AssertionError where there is none."""
    found = os.environ.get("FLORIN_HELM") or shutil.which("helm")
    assert found, "no helm: run `make charts`, which builds it"
    return Path(found)


@dataclass(frozen=True, slots=True)
class Charts:
    """Helm and a copy of the charts."""

    helm: Path
    folder: Path
    rendered: dict[tuple[str, ...], Objects] = field(default_factory=dict)

    def build(self) -> None:
        """Copies the charts, and packs what the umbrella depends on into it. Raises AssertionError."""
        shutil.copytree(ROOT / "charts", self.folder / "charts", ignore=shutil.ignore_patterns("*.tgz"))
        done = self.run("dependency", "build", "florin")
        assert done.returncode == 0, done.stderr

    def run(
        self, *arguments: str, cluster: Path = Path(os.devnull), seconds: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Helm in the charts' folder, without anything of the person who runs the tests; `cluster` is a kubeconfig."""
        return subprocess.run(
            [str(self.helm), *arguments],
            cwd=self.folder / "charts",
            env=self.environment(cluster),
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )

    def environment(self, cluster: Path) -> dict[str, str]:
        """Helm's, with nothing of the person who runs the tests."""
        places = {f"HELM_{name}_HOME": str(self.folder / "helm" / name) for name in ("CACHE", "CONFIG", "DATA")}
        return {**os.environ, **places, "KUBECONFIG": str(cluster)}

    def render(self, chart: str, *arguments: str, release: str = "") -> Objects:
        """What a chart comes to. Raises AssertionError where helm refuses."""
        key = (chart, release, *arguments)
        if key not in self.rendered:
            placed = tuple(self._placed(chart, one) for one in arguments)
            done = self.run("template", release or chart, chart, "--namespace", NAMESPACE, *placed)
            assert done.returncode == 0, done.stderr
            self.rendered[key] = Objects.read(done.stdout)
        return self.rendered[key]

    def refused(self, chart: str, *arguments: str) -> str:
        """What helm says where it refuses. Raises AssertionError where it does not."""
        done = self.run("template", chart, chart, *(self._placed(chart, one) for one in arguments))
        assert done.returncode != 0, f"{arguments} were taken"
        return done.stderr

    def _placed(self, chart: str, argument: str) -> str:
        """A file of the chart by its name in it; others by their paths."""
        is_name = not Path(argument).is_absolute()
        return f"{chart}/{argument}" if is_name and (self.folder / "charts" / chart / argument).is_file() else argument


@dataclass(frozen=True, slots=True)
class Objects:
    """Kubernetes objects."""

    every: tuple[Manifest, ...]

    @staticmethod
    def read(text: str) -> Objects:
        """From YAML; a key that stands twice is an error, as it is for the server."""
        return Objects(tuple(one for one in yaml.load_all(text, Loader=_Strict) if one))

    def kind(self, *kinds: str) -> list[Manifest]:
        """All of these kinds."""
        return [one for one in self.every if one["kind"] in kinds]

    def one(self, kind: str, name: str) -> Manifest:
        """The one of this kind and name; a name may end in a star."""
        pattern = re.compile(re.escape(name).replace(r"\*", ".*") + r"\Z")
        found = [one for one in self.kind(kind) if pattern.match(one["metadata"]["name"])]
        assert len(found) == 1, f"{kind} {name}: {[one['metadata']['name'] for one in found]}"
        return found[0]

    def pods(self) -> Iterator[tuple[str, Manifest]]:
        """Each pod that would run: "Kind/name", and its metadata and spec."""
        for one in self.every:
            label = f"{one['kind']}/{one['metadata']['name']}"
            if one["kind"] == "Pod":
                yield label, one
            elif one["kind"] in {"Deployment", "StatefulSet", "Job"}:
                yield label, one["spec"]["template"]


class _Strict(yaml.SafeLoader):
    """A loader that takes no key twice."""


def _mapping(loader: _Strict, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    pairs = [(loader.construct_object(key), loader.construct_object(value, deep=True)) for key, value in node.value]
    made = dict(pairs)
    assert len(made) == len(pairs), f"a key stands twice: {[key for key, _ in pairs]}"
    return made


_Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def containers(pod: Manifest) -> list[Manifest]:
    """All containers of a pod, those that run first included."""
    spec = pod["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def environment(container: Manifest) -> dict[str, str]:
    """The variables of a container."""
    return {one["name"]: one["value"] for one in container["env"] if "value" in one}


def without_release(manifest: Manifest) -> Manifest:
    """An object without what only tells which release it is of."""
    text = json.dumps(copy.deepcopy(manifest), sort_keys=True)
    text = re.sub(r'"(app.kubernetes.io/instance|helm.sh/chart)": "[^"]*"', r'"\1": "-"', text)
    made: Manifest = json.loads(re.sub(r"-(migrate|grants)-[0-9a-f]{10}", r"-\1", text))
    return made
