"""Calls the mesh over its REST interface with the standard library, so that small commands start quickly."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any
from urllib.parse import quote

from local import issuer
from local.state import MeshError, State

_TIMEOUT_SECONDS = 10


class Refused(MeshError):
    """The mesh said no, or could not answer; `reason` is that of the contract, `status` the HTTP status."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.reason = str(problem.get("reason", ""))
        detail = problem.get("detail") or problem.get("message") or "no details"
        super().__init__(f"{self.reason or status}: {detail}")


def call(
    state: State,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    role: str = "operator",
    tenant: str | None = None,
    port: int | None = None,
) -> dict[str, Any]:
    """One call as a member of staff. Raises Refused, or MeshError when no mesh answers."""
    if port is None or tenant is None:
        description = state.read_description()
        port = port if port is not None else int(description["port"])
        tenant = tenant if tenant is not None else str(description["tenant"])
    context = ssl.create_default_context(cafile=str(state.ca))
    connection = http.client.HTTPSConnection("localhost", port, timeout=_TIMEOUT_SECONDS, context=context)
    headers = {"authorization": f"Bearer {issuer.mint(state, role, tenant=tenant)}", "accept": "application/json"}
    payload = None
    if body is not None:
        payload = json.dumps(body)
        headers["content-type"] = "application/json"
    try:
        connection.request(method, quote(path, safe="/:?=&*"), payload, headers)
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise MeshError(f"The edge at localhost:{port} does not answer ({error}); is the mesh up?") from None
    finally:
        connection.close()
    try:
        answer: dict[str, Any] = json.loads(text) if text else {}
    except ValueError:
        answer = {"detail": text[:200]}
    if response.status >= 400:
        raise Refused(response.status, answer)
    return answer


def find(state: State, path: str, missing: str, *, tenant: str | None = None) -> dict[str, Any]:
    """What stands at a path; empty where it is refused with the reason `missing`. Raises Refused, MeshError."""
    try:
        return call(state, "GET", path, tenant=tenant)
    except Refused as refused:
        if refused.reason == missing:
            return {}
        raise


def ensure_tenant(
    state: State, tenant: str, *, time_zone: str = "UTC", port: int | None = None, home: str = "demo"
) -> bool:
    """Makes a tenant; False when it exists already. Raises Refused or MeshError.

    `home` is the tenant of the operator who does it, so that a name that cannot be one is refused as a name.
    """
    body = {"tenantId": tenant, "displayName": tenant, "timeZone": time_zone}
    try:
        call(state, "POST", "/v1/tenants", body, tenant=home, port=port)
    except Refused as refused:
        if refused.reason == "TENANT_EXISTS":
            return False
        raise
    return True
