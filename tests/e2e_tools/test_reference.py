"""The reference's examples, copied out and run against the mesh: each is answered, or refused as its method says."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from artifacts import commands, contract
from artifacts.contract import Method, Service
from artifacts.pages import Code, markdown
from artifacts.reference import page_name, pages
from tests.support.mesh import Mesh
from tests.support.terminal import Terminal, program

PRESENT = contract.load()
PAGES = {page.name: page for page in pages(PRESENT)}
FORMAT = "grpcurl -format-error"
"""So that a refusal's details can be read; a person reads them as they come."""


def examples(service: Service) -> dict[str, list[str]]:
    """Method → its examples, cut out of the Markdown page of its service."""
    text = markdown(PAGES[page_name(service)])
    sections = re.split(r"^## (\w+)$", text, flags=re.MULTILINE)[1:]
    return {
        name: re.findall(r"^```sh\n(.*?)\n```$", section, re.MULTILINE | re.DOTALL)
        for name, section in zip(sections[::2], sections[1::2], strict=True)
    }


@pytest.mark.parametrize("service", PRESENT.services, ids=lambda service: service.short_name)
def test_the_examples_of_a_service_run(terminal: Terminal, mesh: Mesh, service: Service) -> None:
    """No example is malformed, unknown to the edge, or beyond the role that it names; none finds a fault of ours."""
    for needed in ("grpcurl", "curl"):
        program(needed)
    shown = examples(service)
    assert set(shown) == {method.name for method in service.methods}
    for method in service.methods:
        assert len(shown[method.name]) == (2 if method.route else 1)
        for example in shown[method.name]:
            judge(method, example, run(terminal, mesh, method, example))


def run(terminal: Terminal, mesh: Mesh, method: Method, example: str) -> subprocess.CompletedProcess[str]:
    """Runs an example as it stands in a shell."""
    environment = {
        **os.environ,
        "EDGE": f"localhost:{mesh.port}",
        "CA": str(mesh.state.ca),
        "TOKEN": terminal.token("--as", commands.role(method)),
    }
    command = ["bash", "-c", example.replace("grpcurl", FORMAT, 1) if example.startswith("grpcurl") else example]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


def judge(method: Method, example: str, done: subprocess.CompletedProcess[str]) -> None:
    """An answer, one of the method's own reasons, or the end of the time that a stream was listened to."""
    said = done.stdout + done.stderr
    reason = re.search(r'"reason": ?"(?:REASON_)?([A-Z_]+)"', said)
    refused = '"status":' in said if example.startswith("curl") else done.returncode != 0
    if not method.policy.deadline_ms and done.returncode in {0, 28, 68}:
        return  # curl's and grpcurl's word for a time that is over
    if reason is not None and (refused or "ErrorInfo" in said):
        assert reason[1] in (*method.reasons, *method.item_reasons), f"{example}\n{said}"
    else:
        assert done.returncode == 0, f"{example}\n{said}"


def test_every_page_is_there_in_both_forms_and_links_lead_to_headings(tmp_path: Path) -> None:
    """A link of one page leads to a heading that another has."""
    text = {name: markdown(page) for name, page in PAGES.items()}
    anchors = {(name, anchor) for name, page in text.items() for anchor in re.findall(r'<a id="([^"]+)">', page)}
    links = {
        (name, found) for name, page in text.items() for found in re.findall(r"\]\(([a-z]*(?:\.md)?#[^)]+)\)", page)
    }
    assert len(links) > 300
    for name, link in links:
        page, _, anchor = link.partition("#")
        assert (page.removesuffix(".md") or name, anchor) in anchors, link
    assert all(any(isinstance(block, Code) for block in PAGES[page_name(one)].blocks) for one in PRESENT.services)
