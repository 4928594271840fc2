"""The style guide as tests: sizes, opening sentences, banned words, no asserts and no junk drawers."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = (
    "accounts",
    "transactions",
    "compliance",
    "notifications",
    "checker",
    "meshkit",
    "local",
    "envoy",
    "protos",
    "artifacts",
)
SERVICES = ("accounts", "transactions", "compliance", "notifications")
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70


def tracked(*patterns: str) -> list[Path]:
    """The files git tracks or would track, so that build output never counts."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


def product_modules() -> list[Path]:
    """Every Python module of the product."""
    return [path for path in tracked("*.py") if path.relative_to(ROOT).parts[0] in PRODUCT]


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function in a module, nested ones included."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_every_module_opens_with_one_sentence_on_its_duty() -> None:
    """A reader learns from the first line what a module is for."""
    silent = [
        str(path.relative_to(ROOT))
        for path in product_modules()
        if not (ast.get_docstring(ast.parse(path.read_text())) or "").strip()
    ]
    assert silent == []


def test_modules_and_functions_stay_small() -> None:
    """A module fits a sitting, a function a screen."""
    large = []
    for path in product_modules():
        text = path.read_text()
        lines = text.count("\n")
        if lines > MODULE_LINES_MAX:
            large.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for function in functions(ast.parse(text)):
            length = (function.end_lineno or 0) - function.lineno + 1
            if length > FUNCTION_LINES_MAX:
                large.append(f"{path.relative_to(ROOT)}:{function.lineno} {function.name}: {length} lines")
    assert large == []


def test_product_code_has_no_assert() -> None:
    """An assert vanishes under -O; an invariant is checked by code that raises."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in product_modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert)
    ]
    assert found == []


def test_every_test_is_a_sentence_with_a_claim() -> None:
    """Tests say what holds: in their name, and in one sentence."""
    wordless = []
    for path in tracked("tests/*.py"):
        wordless += [
            f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
            for function in functions(ast.parse(path.read_text()))
            if function.name.startswith("test_") and not ast.get_docstring(function)
        ]
    assert wordless == []


def test_no_folder_attracts_junk() -> None:
    """Files are named for what they do."""
    junk = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
    found = [
        str(path.relative_to(ROOT))
        for path in tracked("*.py")
        if path.stem in junk or junk.intersection(path.relative_to(ROOT).parts[:-1])
    ]
    assert found == []


@pytest.mark.parametrize("word", ["TODO", "FIXME", "XXX", "HACK"])
def test_nothing_is_left_for_later(word: str) -> None:
    """What is not done is not hidden in a comment."""
    marker = re.compile(rf"(#|//|--).*\b{word}\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked("*.py", "*.proto", "*.yaml", "Makefile", "*.sh")
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if marker.search(line)
    ]
    assert found == []


def test_services_have_the_files_a_reader_expects() -> None:
    """Whoever knows one service finds the way in the next."""
    expected = {
        "README.md",
        "__main__.py",
        "settings.py",
        "app.py",
        "rpc.py",
        "operations.py",
        "errors.py",
        "policy.yaml",
    }
    for service in SERVICES:
        present = {path.name for path in (ROOT / service).iterdir()}
        assert expected <= present, f"{service} lacks {sorted(expected - present)}"
        assert (ROOT / service / "migrations" / "versions").is_dir()


def test_a_service_opens_transactions_and_writes_sql_only_where_it_should() -> None:
    """rpc.py is gRPC in and out; model.py is pure."""
    for service in SERVICES:
        rpc = (ROOT / service / "rpc.py").read_text()
        assert not re.search(r"\b(SELECT|INSERT INTO|UPDATE \w+ SET|DELETE FROM)\b", rpc), f"{service}/rpc.py has SQL"
        for pure in ("model.py", "saga.py", "ledger.py", "transfer.py"):
            path = ROOT / service / pure
            if path.exists():
                imports = re.findall(r"^(?:from|import) (\S+)", path.read_text(), re.M)
                impure = [
                    name
                    for name in imports
                    if name.split(".")[0] in {"sqlalchemy", "grpc", "psycopg", "nats", "aiohttp"}
                ]
                assert impure == [], f"{service}/{pure} imports {impure}"
