"""The Go client as its users get it: a module from a proxy, which here is a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from artifacts.contract import version
from clients import go_module
from clients.stage import GO_MODULE, ROOT, STAGE
from clients.toolchains import need, run
from tests.clients.conftest import Bank, judge_losses, judge_quickstart, quickstart

pytestmark = pytest.mark.timeout(600)
"""Building may compile and fetch a lot, the first time."""


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a GOPROXY may name."""
    return go_module.build(tmp_path_factory.mktemp("go"))


def test_the_quickstart_runs(bank: Bank, proxy: Path, tmp_path: Path) -> None:
    """The README's program, word for word, in an empty module that gets the client by its name."""
    go = need("go", "Go")
    (tmp_path / "main.go").write_text(quickstart("go", "go"))
    others = run([go, "env", "GOPROXY"], cwd=tmp_path).strip()
    more = {"GOPROXY": f"file://{proxy},{others}", "GONOSUMDB": GO_MODULE.split("/")[0], "GOFLAGS": "-mod=mod"}
    run([go, "mod", "init", "quickstart"], cwd=tmp_path)
    # A module is kept by its version; what is built here twice under one version must not be mistaken for the other.
    more["GOMODCACHE"] = run([go, "env", "GOMODCACHE"], cwd=tmp_path).strip()
    # Go keeps an index of a version's files too, beside what it built.
    more["GODEBUG"] = "goindex=0"
    forget(Path(more["GOMODCACHE"]))
    try:
        bank.run(go, "get", f"{GO_MODULE}@v{version()}", cwd=tmp_path, more=more)
        judge_quickstart(bank.run(go, "run", ".", cwd=tmp_path, more=more))
    finally:
        forget(Path(more["GOMODCACHE"]))


def test_the_clients_own_tests_pass_and_what_lost_its_answer_is_paid_once(bank: Bank, proxy: Path) -> None:
    """`go test`, through a proxy that loses an answer."""
    said = bank.run(need("go", "Go"), "test", "-count=1", "./...", cwd=STAGE / "go", lossy=True)
    assert f"ok  \t{GO_MODULE}" in said
    judge_losses(bank, 1)


def test_its_sources_are_formatted() -> None:
    """As gofmt would have them."""
    sources = sorted((ROOT / "clients" / "go").glob("*.go"))
    assert run([need("gofmt", "Go"), "-l", *sources], cwd=ROOT) == ""


def forget(cache: Path) -> None:
    """Takes the client's module out of Go's cache, whose files nobody may write to."""
    for place in (cache / "cache" / "download" / GO_MODULE, cache / f"{GO_MODULE}@v{version()}"):
        for path in [place, *place.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(place, ignore_errors=True)
