"""The REST API as OpenAPI 3.1, from the contracts' HTTP mapping; the edge transcodes exactly this."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from artifacts import examples, refusals, rules
from artifacts.contract import Contract, Method, Route, Service, version
from artifacts.schemas import WELL_KNOWN, Schemas

Json = dict[str, Any]

_VARIABLE = re.compile(r"\{([a-z_.]+)(?:=([^}]*))?\}")
_BODY = "google.api.HttpBody"
_PROBLEMS = {
    400: "The request breaks a rule, or what it asks for cannot be done as things are.",
    401: "There is no good token.",
    403: "The token is good, but not for this.",
    404: "There is no such resource or method, or it is not the caller's.",
    409: "It exists, or others changed it at the same time.",
    413: "The request is too large.",
    429: "Too many calls; again after Retry-After.",
    431: "The request's headers are too large.",
    500: "Something of Florin's own failed.",
    501: "This part is not set up here.",
    503: "A part that is needed is down; again after Retry-After, with the same request_id.",
    504: "The deadline passed. A write may have happened: ask again with the same request_id.",
}
_DESCRIPTION = """\
Florin's public contract over HTTP and JSON. It is the same contract as over gRPC, transcoded by the edge.

* 64-bit integers are strings in answers; in requests numbers are taken too. Money is in minor units, never a fraction.
* Unknown fields of a body are ignored; unknown query parameters are refused. Fields and enum values are added without a
  new version.
* Every refusal is `application/problem+json` (RFC 9457) with a `reason` that does not change.
* A call that changes something takes the caller's key as `requestId` or as the header `Idempotency-Key`: the same key
  with the same payload gives the same answer, however often it is sent.
* Lists come in pages: `pageSize`, and the `nextPageToken` of one page as the next one's `pageToken`.
* A stream is one JSON document a line, until either side ends it."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A part of a path that varies."""

    name: str
    field: str
    """The request's field that it is a part of, as a path: "endpoint.name"."""
    pattern: str | None


def document(contract: Contract) -> Json:
    """The whole document."""
    schemas = Schemas(contract)
    paths: dict[str, Json] = {}
    for method in contract.methods:
        if method.route is not None:
            path, parameters = path_of(method, method.route)
            paths.setdefault(path, {})[method.route.verb] = _operation(contract, schemas, method, parameters)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Florin",
            "version": version(),
            "summary": "An open core-banking mesh.",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "https://localhost:8443", "description": "A mesh on this machine (make up)"}],
        "security": [{"token": []}],
        "tags": [_tag(service) for service in contract.services if any(method.route for method in service.methods)],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A token whose claim `scope` has one of the scopes that the operation names.",
                }
            },
            "headers": {
                "Retry-After": {
                    "description": "After how many seconds to ask again.",
                    "schema": {"type": "integer", "minimum": 1},
                }
            },
            "responses": _problems(contract),
            "schemas": {"Problem": _PROBLEM, **dict(sorted(schemas.made.items()))},
        },
    }


def path_of(method: Method, route: Route) -> tuple[str, list[Parameter]]:
    """The path as OpenAPI writes it ("/v1/transfers/{transfer}:wait"), and its parameters."""
    found: list[Parameter] = []

    def expand(variable: re.Match[str]) -> str:
        field, template = variable[1], variable[2] or "*"
        pattern = rules.rules_of(_field(method.request, field)).string.pattern
        parts = template.split("/")
        for at, part in enumerate(parts):
            if part == "*":
                name = _singular(parts[at - 1]) if at else field
                found.append(Parameter(name, field, _part_pattern(pattern, parts)))
                parts[at] = f"{{{name}}}"
        return "/".join(parts)

    return _VARIABLE.sub(expand, route.template), found


def variables(route: Route) -> list[str]:
    """The request's fields that stand in the path."""
    return [found[1] for found in _VARIABLE.finditer(route.template)]


def query_fields(method: Method, route: Route) -> Iterator[tuple[str, FieldDescriptor]]:
    """The request's fields that stand in the query, as REST names them ("asOfSequence", "amount.minorUnits")."""
    if route.body == "*":
        return
    yield from _query_fields(method.request, frozenset({*variables(route), route.body}), "", "")


def _query_fields(
    message: Descriptor, bound: frozenset[str], scope: str, shown: str
) -> Iterator[tuple[str, FieldDescriptor]]:
    for field in message.fields:
        name = f"{scope}{field.name}"
        if name in bound:
            continue
        if field.message_type is not None and field.message_type.full_name not in WELL_KNOWN:
            if not field.is_repeated:
                yield from _query_fields(field.message_type, bound, f"{name}.", f"{shown}{field.json_name}.")
            continue
        yield f"{shown}{field.json_name}", field


def _singular(collection: str) -> str:
    """ "transfers" → "transfer", "feeSchedules" → "feeSchedule"."""
    return collection[:-3] + "y" if collection.endswith("ies") else collection.removesuffix("s")


def _part_pattern(pattern: str, parts: list[str]) -> str | None:
    """The pattern of what stands for the one asterisk, where the field's pattern is "^collection/…$"."""
    if sum("*" in part for part in parts) != 1 or len(parts) != 2 or not pattern.startswith(f"^{parts[0]}/"):
        return None
    return "^" + pattern.removeprefix(f"^{parts[0]}/")


def _field(message: Descriptor, path: str) -> FieldDescriptor:
    name, _, rest = path.partition(".")
    field = message.fields_by_name[name]
    return _field(_message_of(field), rest) if rest else field


def _message_of(field: FieldDescriptor) -> Descriptor:
    if field.message_type is None:
        raise ValueError(f"{field.full_name} is no message")
    return field.message_type


def _tag(service: Service) -> Json:
    text = "\n\n".join(" ".join(part.split()) for part in service.comment.split("\n\n"))
    return {"name": service.short_name, "description": text}


def _operation(contract: Contract, schemas: Schemas, method: Method, parameters: list[Parameter]) -> Json:
    route = method.route
    if route is None:
        raise ValueError(f"{method.full_name} has no HTTP mapping")
    made: Json = {
        "operationId": method.name[:1].lower() + method.name[1:],
        "tags": [method.service.rsplit(".", 1)[1]],
        "summary": method.comment.split("\n\n")[0].split(". ")[0].rstrip(".") + ".",
        "description": _described(method),
        "security": [{"token": [scope]} for scope in method.policy.scopes],
        "x-reasons": [*method.general, *method.reasons],
        **({"x-item-reasons": list(method.item_reasons)} if method.item_reasons else {}),
        "x-deadline-ms": method.policy.deadline_ms,
    }
    shown = [*_path_parameters(schemas, method, parameters), *_query_parameters(schemas, method, route)]
    if method.has_request_id and route.verb != "get":
        shown.append(_IDEMPOTENCY_KEY)
    if shown:
        made["parameters"] = shown
    body = _body(schemas, method, route)
    if body is not None:
        made["requestBody"] = body
    made["responses"] = {"200": _answer(contract, schemas, method)}
    made["responses"].update({str(status): {"$ref": f"#/components/responses/{status}"} for status in _PROBLEMS})
    return made


def _described(method: Method) -> str:
    text = method.comment
    if method.reasons:
        told = ", ".join(f"`{reason}`" for reason in method.reasons)
        text += f"\n\nRefused, in this order, with {told}."
    if method.policy.staff_only:
        text += "\n\nFor staff: a customer's token is refused with `STAFF_ONLY`."
    elif method.policy.owner:
        text += "\n\nA customer may use it on what is its own alone."
    return text


_IDEMPOTENCY_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The caller's key for this request; it stands for `requestId` where the request has none.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128},
}


def _path_parameters(schemas: Schemas, method: Method, parameters: list[Parameter]) -> Iterator[Json]:
    for parameter in parameters:
        schema: Json = {"type": "string", "minLength": 1}
        if parameter.pattern:
            schema["pattern"] = parameter.pattern
        text = schemas.field(_field(method.request, parameter.field)).get("description", "")
        example = examples.in_path(method, parameter.field, parameter.name)
        yield {
            "name": parameter.name,
            "in": "path",
            "required": True,
            "description": text,
            "schema": schema,
            "example": example,
        }


def _query_parameters(schemas: Schemas, method: Method, route: Route) -> Iterator[Json]:
    for name, field in query_fields(method, route):
        schema = schemas.field(field)
        made: Json = {"name": name, "in": "query"}
        if "description" in schema:
            made["description"] = schema.pop("description")
        if rules.is_required(field) and "." not in name and field.name != "request_id":
            made["required"] = True
        yield {**made, "schema": schema}


def _body(schemas: Schemas, method: Method, route: Route) -> Json | None:
    if not route.body:
        return None
    request = examples.brief(method)
    if route.body == "*":
        bound = {name for name in variables(route) if "." not in name}
        schema = schemas.message(method.request, left_out=bound)
        example = examples.json_of(request, without=variables(route))
    else:
        field = method.request.fields_by_name[route.body]
        schema = schemas.message(_message_of(field))
        inner = [name.removeprefix(f"{route.body}.") for name in variables(route)]
        example = examples.json_of(getattr(request, route.body), without=inner)
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


def _answer(contract: Contract, schemas: Schemas, method: Method) -> Json:
    if method.response.full_name == _BODY:
        return {
            "description": "The document, in the format that was asked for.",
            "content": {"*/*": {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}},
        }
    text = contract.comment(method.response)
    if method.descriptor.server_streaming:
        text += " One a line, as they come."
    schema = schemas.message(method.response)
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _problems(contract: Contract) -> Json:
    by_status = refusals.reasons_by_status(contract)
    made: Json = {}
    for status, text in _PROBLEMS.items():
        reasons = by_status.get(status, [])
        problem: Json = {"schema": {"$ref": "#/components/schemas/Problem"}}
        if reasons:
            problem["example"] = _problem_example(contract.reasons, status, reasons[0])
        made[str(status)] = {
            "description": f"{HTTPStatus(status).phrase}. {text}",
            "content": {"application/problem+json": problem},
            **({"x-reasons": reasons} if reasons else {}),
        }
        if status in {429, 503}:
            made[str(status)]["headers"] = {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}
    return made


def _problem_example(sentences: Mapping[str, str], status: int, reason: str) -> Json:
    title = re.split(r"(?<=\.) |; ", sentences[reason])[0].rstrip(".") + "."
    return {"type": f"urn:florin:reason:{reason}", "title": title, "status": status, "detail": title, "reason": reason}


_PROBLEM: Json = {
    "type": "object",
    "description": "RFC 9457's problem, with Florin's reason.",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {
            "type": "string",
            "description": '"urn:florin:reason:" and the reason; "about:blank" where there is none.',
        },
        "title": {"type": "string", "description": "The reason's own sentence."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": {"type": "string", "description": "The sentence of this refusal."},
        "reason": {
            "type": "string",
            "description": "Why, in one word that does not change: a value of florin.common.v1.Reason without REASON_.",
        },
        "metadata": {
            "type": "object",
            "description": "The values in the sentence, by name.",
            "additionalProperties": {"type": "string"},
        },
        "violations": {
            "type": "array",
            "description": "Every rule that the request breaks.",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "description": {"type": "string"}},
            },
        },
        "details": {
            "type": "array",
            "description": "What else was told, for example florin.common.v1.InsufficientFunds.",
            "items": {"type": "object", "required": ["@type"], "properties": {"@type": {"type": "string"}}},
        },
    },
}
