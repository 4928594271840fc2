"""The Java client as its users get it: a jar, with what its pom names."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients import java_package
from clients.stage import STAGE
from clients.toolchains import need, run
from tests.clients.conftest import Bank, judge_losses, judge_quickstart, quickstart

pytestmark = pytest.mark.timeout(600)
"""Building may compile and fetch a lot, the first time."""


@pytest.fixture(scope="module")
def classpath(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The jar, and the jars of what it depends on."""
    folder = tmp_path_factory.mktemp("java")
    jar = java_package.build(folder)
    needed = folder / "needed.txt"
    words = ("dependency:build-classpath", "-DincludeScope=runtime", f"-Dmdep.outputFile={needed}")
    run(java_package.maven(*words), cwd=STAGE / "java")
    return f"{jar}:{needed.read_text().strip()}"


def test_the_quickstart_runs(bank: Bank, classpath: str, tmp_path: Path) -> None:
    """The README's program, word for word, compiled against the jar."""
    (tmp_path / "Quickstart.java").write_text(quickstart("java", "java"))
    run([need("javac", "a JDK"), "-cp", classpath, "-d", tmp_path, "Quickstart.java"], cwd=tmp_path)
    judge_quickstart(bank.run(need("java", "Java"), "-cp", f"{classpath}:{tmp_path}", "Quickstart", cwd=tmp_path))


def test_the_clients_own_tests_pass_and_what_lost_its_answer_is_paid_once(bank: Bank, classpath: str) -> None:
    """`mvn test`, through a proxy that loses an answer."""
    bank.run(*java_package.maven("surefire:test"), cwd=STAGE / "java", lossy=True)
    reports = list((STAGE / "java" / "target" / "surefire-reports").glob("TEST-*.xml"))
    assert 'failures="0"' in reports[0].read_text()
    judge_losses(bank, 1)
