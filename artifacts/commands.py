"""The commands by which a person at a terminal tries a method: one of grpcurl, one of curl; both run as they stand.

They ask for `$EDGE` (host and port), `$CA` (a file) and `$TOKEN`.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote, urlencode

from google.protobuf.descriptor import FieldDescriptor

from artifacts import examples
from artifacts.contract import Method, Route
from local.roles import ROLES

_ORDER = ("teller", "operator", "compliance", "auditor", "bookkeeper", "customer")
_VARIABLE = re.compile(r"\{([a-z_.]+)(?:=[^}]*)?\}")


def role(method: Method) -> str:
    """A role of the development issuer that may call the method."""
    for name in _ORDER:
        if set(ROLES[name]) & set(method.policy.scopes) and not (name == "customer" and method.policy.staff_only):
            return name
    raise LookupError(f"no role may call {method.full_name}")


def grpcurl(method: Method) -> str:
    """By gRPC, with reflection. What never ends by itself is listened to for two seconds."""
    words = ['grpcurl -cacert "$CA" -H "authorization: Bearer $TOKEN"']
    if not method.policy.deadline_ms:
        words.append("-max-time 2")
    request = examples.json_of(examples.brief(method))
    for field in method.request.fields:
        if field.json_name in request and _is_mask(field):
            # grpcurl knows no other form of it than the message's own.
            request[field.json_name] = {"paths": list(getattr(examples.brief(method), field.name).paths)}
    if request:
        words.append(f"-d {_quoted(request)}")
    return " ".join([*words, f'"$EDGE" {method.full_name}'])


def curl(method: Method, route: Route) -> str:
    """By REST."""
    words = ['curl -sS --cacert "$CA" -H "authorization: Bearer $TOKEN"']
    if not method.policy.deadline_ms:
        words.append("-N --max-time 2")
    if route.verb not in {"get", "post"}:
        words.append(f"-X {route.verb.upper()}")
    request: Any = examples.brief(method)
    path = _VARIABLE.sub(lambda found: quote(_at(request, found[1]), safe="/"), route.template)
    bound = [found[1] for found in _VARIABLE.finditer(route.template)]
    if route.body == "*":
        words.append(_body(examples.json_of(request, without=bound)))
        query: dict[str, Any] = {}
    elif route.body:
        inner = [name.removeprefix(f"{route.body}.") for name in bound]
        words.append(_body(examples.json_of(getattr(request, route.body), without=inner)))
        query = examples.json_of(request, without=[route.body])
    else:
        query = examples.json_of(request, without=bound)
    parameters = urlencode(_flat(query), doseq=True, safe="/:,")
    return " ".join([*words, f'"https://$EDGE{path}{"?" if parameters else ""}{parameters}"'])


def _is_mask(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.full_name == "google.protobuf.FieldMask"


def _at(message: Any, path: str) -> str:
    for name in path.split("."):
        message = getattr(message, name)
    return str(message)


def _body(request: dict[str, Any]) -> str:
    return f"-H 'content-type: application/json' -d {_quoted(request)}"


def _quoted(request: dict[str, Any]) -> str:
    return "'" + json.dumps(request, ensure_ascii=False).replace("'", "'\\''") + "'"


def _flat(value: dict[str, Any], scope: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, one in value.items():
        if isinstance(one, dict):
            made.update(_flat(one, f"{scope}{name}."))
        else:
            made[f"{scope}{name}"] = one
    return made
