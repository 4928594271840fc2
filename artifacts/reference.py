"""The reference of all that is public, from the contracts' own comments: methods with their reasons, types, events."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from artifacts import commands, refusals, rules
from artifacts.contract import Contract, Event, Method, Service, version
from artifacts.openapi import path_of
from artifacts.pages import Code, Heading, Listing, Page, Paragraph, Table
from artifacts.service_config import may_be_sent_again

_SCALARS = {
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
}
_EXAMPLES = (
    "Examples run as they stand where `EDGE` is host and port of the edge, `CA` the file of its certificate "
    "authority and `TOKEN` a token: beside a mesh on this machine `EDGE=localhost:8443`, `CA=$(florin ca)` and "
    "`TOKEN=$(florin token --as teller)`, or another role where one is named."
)
_AGAIN = (
    "Every method is idempotent. A method that changes something takes a `request_id`: the same key with the same "
    "payload gives the same answer, refusals included, however often it is sent; with another payload it is refused "
    "with `REQUEST_ID_REUSED`. So whoever got no answer asks again with the same key. Where a request may go without "
    "a key, each copy without one is a request of its own."
)


def pages(contract: Contract) -> list[Page]:
    """All pages; the first is where to begin."""
    made = [_index(contract)]
    made += [_service(contract, service) for service in contract.services]
    made += [_types(contract), _events(contract), _reasons(contract)]
    return made


def page_name(service: Service) -> str:
    """The page of a service: "transfer" of TransferService."""
    return service.short_name.removesuffix("Service").lower()


def _index(contract: Contract) -> Page:
    page = Page("index", f"Florin {version()}: reference")
    page.blocks.append(Paragraph(_EXAMPLES))
    page.blocks.append(Paragraph(_AGAIN))
    page.blocks.append(
        Paragraph(
            "Why a call was refused: [reasons](reasons). What is told afterwards: [events](events). "
            "Messages: [types](types)."
        )
    )
    for service in contract.services:
        page.blocks.append(Heading(2, service.short_name, page_name(service)))
        page.blocks.append(Paragraph(contract.comment(service.name).split(". ")[0].rstrip(".") + "."))
        rows = [
            [f"[{method.name}]({page_name(service)}#{method.name})", _first_sentence(method), f"`{_rest(method)}`"]
            for method in service.methods
        ]
        page.blocks.append(Table(["Method", "What", "REST"], rows))
    return page


def _service(contract: Contract, service: Service) -> Page:
    page = Page(page_name(service), service.short_name)
    page.blocks += [Paragraph(" ".join(text.split())) for text in service.comment.split("\n\n") if text.strip()]
    for method in service.methods:
        page.blocks.append(Heading(2, method.name, method.name))
        page.blocks += [Paragraph(text) for text in method.comment.split("\n\n")]
        page.blocks.append(Table(["", ""], list(_facts(contract, method))))
        page.blocks.append(Heading(3, "Request", f"{method.name}-request"))
        page.blocks += _message(contract, method.request)
        page.blocks.append(Heading(3, "Answer", f"{method.name}-answer"))
        page.blocks += _message(contract, method.response)
        page.blocks.append(Heading(3, "Reasons, in order of precedence", f"{method.name}-reasons"))
        page.blocks.append(Listing([f"`{reason}`" for reason in (*method.general, *method.reasons)]))
        if method.item_reasons:
            page.blocks.append(Heading(3, "Reasons of an item", f"{method.name}-items"))
            page.blocks.append(Listing([f"`{reason}`" for reason in method.item_reasons]))
        page.blocks.append(Heading(3, "Example", f"{method.name}-example"))
        page.blocks.append(Paragraph(f"With a token of the role {commands.role(method)}:"))
        page.blocks.append(Code("sh", commands.grpcurl(method)))
        if method.route is not None:
            page.blocks.append(Code("sh", commands.curl(method, method.route)))
    return page


def _facts(contract: Contract, method: Method) -> Iterator[list[str]]:
    yield ["gRPC", f"`{method.full_name}`"]
    yield ["REST", f"`{_rest(method)}`"]
    yield ["Scope", ", or ".join(f"`{scope}`" for scope in method.policy.scopes)]
    if method.policy.staff_only:
        yield ["Who", "staff"]
    elif method.policy.owner:
        yield ["Who", "staff; customers on what is their own"]
    yield ["Deadline", f"{method.policy.deadline_ms / 1000:g} s" if method.policy.deadline_ms else "none"]
    if may_be_sent_again(contract, method):
        yield ["Sent again", "by any gRPC library, with `service_config.json`"]
    elif not method.is_streaming and method.has_request_id:
        yield ["Sent again", "by who gave it a `request_id`"]


def _first_sentence(method: Method) -> str:
    return method.comment.split("\n\n")[0].split(". ")[0].rstrip(".") + "."


def _rest(method: Method) -> str:
    if method.route is None:
        return "–"
    return f"{method.route.verb.upper()} {path_of(method, method.route)[0]}"


def _message(contract: Contract, message: Descriptor) -> Iterator[Paragraph | Table]:
    told = [contract.comment(message), *rules.message_sentences(message)]
    if any(told):
        yield Paragraph(" ".join(filter(None, told)))
    if message.fields:
        rows = [_field(contract, field) for field in message.fields]
        yield Table(["Field", "Type", "Needed", "What"], rows)
    else:
        yield Paragraph("It has no fields.")


def _field(contract: Contract, field: FieldDescriptor) -> list[str]:
    told = [contract.comment(field.full_name), *rules.sentences(field)]
    checks = rules.keywords(rules.rules_of(field))
    limits = [f"{name} `{value}`" for name, value in checks.items() if name in _LIMITS]
    if limits:
        told.append("; ".join(limits) + ".")
    return [f"`{field.name}`", _type(field), "yes" if rules.is_required(field) else "", " ".join(filter(None, told))]


_LIMITS = {"minLength", "maxLength", "pattern", "minimum", "maximum", "minItems", "maxItems", "uniqueItems", "format"}


def _type(field: FieldDescriptor) -> str:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        return f"map of {_type(message.fields_by_name['key'])} to {_type(message.fields_by_name['value'])}"
    if message is not None:
        name = _link(message)
    elif field.enum_type is not None:
        name = _link(field.enum_type)
    else:
        name = _SCALARS[field.type]
    return f"list of {name}" if field.is_repeated else name


def _link(of: Descriptor | EnumDescriptor) -> str:
    short = str(of.full_name).removeprefix("florin.")
    return f"[{short}](types#{of.full_name})" if of.full_name.startswith("florin.") else str(of.full_name)


def _types(contract: Contract) -> Page:
    """Every message and enum that requests, answers and events are made of, themselves included: they are linked to."""
    page = Page("types", "Types")
    for found in sorted(_reached(contract), key=lambda one: str(one.full_name)):
        page.blocks.append(Heading(2, str(found.full_name).removeprefix("florin."), str(found.full_name)))
        if isinstance(found, EnumDescriptor):
            page.blocks.append(Paragraph(contract.comment(found)))
            rows = [
                [f"`{value.name}`", contract.comment(f"{found.full_name}.{value.name}")]
                for value in found.values
                if value.number
            ]
            page.blocks.append(Table(["Value", "What"], rows))
        else:
            page.blocks += _message(contract, found)
    return page


def _reached(contract: Contract) -> list[Descriptor | EnumDescriptor]:
    pending: list[Descriptor] = [event.descriptor for event in contract.events]
    for method in contract.methods:
        pending += [method.request, method.response]
    found: dict[str, Descriptor | EnumDescriptor] = {}
    while pending:
        message = pending.pop()
        name = str(message.full_name)
        if name in found:
            continue
        found[name] = message
        for field in message.fields:
            if field.enum_type is not None:
                found[str(field.enum_type.full_name)] = field.enum_type
            elif field.message_type is not None:
                pending.append(field.message_type)
    return [
        one
        for name, one in found.items()
        if name.startswith("florin.") and not (isinstance(one, Descriptor) and one.GetOptions().map_entry)
    ]


def _events(contract: Contract) -> Page:
    page = Page("events", "Events")
    page.blocks.append(
        Paragraph(
            "Events reach webhooks and `StreamEvents` as CloudEvents 1.0, at least once each, in order for each "
            "resource. Their id stays the same when they are sent again."
        )
    )
    for event in contract.events:
        page.blocks.append(Heading(2, event.policy.subject, event.policy.subject))
        page.blocks += _event(contract, event)
    return page


def _event(contract: Contract, event: Event) -> Iterator[Paragraph | Table]:
    scopes = ", or ".join(f"`{scope}`" for scope in event.policy.scopes)
    who = "customers whom it is about, and staff" if event.policy.customers else "staff"
    yield Paragraph(f"For {who}, with the scope {scopes}.")
    yield from _message(contract, event.descriptor)


def _reasons(contract: Contract) -> Page:
    page = Page("reasons", "Reasons")
    page.blocks.append(
        Paragraph(
            "Every refusal carries exactly one `google.rpc.ErrorInfo` with the domain `florin` and one of these "
            "reasons; over REST it is `application/problem+json` with the same `reason`."
        )
    )
    raised = refusals.codes()
    rows = [
        [
            f"`{reason}`",
            f"{raised[reason].name}" if reason in raised else "",
            str(refusals.http_status(reason)) if reason in raised else "",
            sentence,
        ]
        for reason, sentence in contract.reasons.items()
    ]
    page.blocks.append(Table(["Reason", "gRPC", "HTTP", "What"], rows))
    return page
