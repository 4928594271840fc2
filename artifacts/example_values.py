"""What example messages say where the contracts leave it open, and where rules in CEL tie fields together."""

from __future__ import annotations

from typing import Any

TEXTS = {
    # Field name, "Message.field" where it is ambiguous, or a collection → what stands there.
    "accounts": "ada",
    "customers": "ada",
    "account": "accounts/ada",
    "customer": "customers/ada",
    "debit_account": "accounts/ada",
    "credit_account": "accounts/ada-savings",
    "settlement_account": "accounts/settlement-eur",
    "fee_account": "accounts/fees-eur",
    "currency_code": "EUR",
    "base_currency_code": "EUR",
    "counter_currency_code": "USD",
    "other_currency_code": "USD",
    "country_code": "DE",
    "country_codes": "DE",
    "display_name": "Ada",
    "legal_name": "Ada Beispiel",
    "creditor_name": "Grace Beispiel",
    "creditor_iban": "DE89370400440532013000",
    "iban": "DE89370400440532013000",
    "local": "1000-42",
    "reason": "asked for by the customer",
    "url": "https://receiver.example/florin",
    "time_zone": "Europe/Berlin",
    "local_time": "09:00",
    "start_date": "2099-01-01",
    "end_date": "2099-12-31",
    "date": "2099-12-31",
    "period_start": "2026-01-01",
    "period_end": "2026-01-31",
    "date_of_birth": "1990-01-02",
    "request_id": "example",
    "end_to_end_id": "invoice-7",
    "remittance": "Invoice 7",
    "source": "ECB",
    "filter": "state = COMPLETED",
    "event_types": "florin.transactions.*",
    "Rule.expression": "amount.minor_units > 100000",
    "name": "accounts/ada",
    "feeSchedules": "payment-eur",
    "exchangeRates": "eur-usd",
    "overdraftThresholds": "EUR",
    "uuid": "0193a7c0-0000-7000-8000-000000000001",
    "delivery": "0193a7c0-0000-7000-8000-000000000001",
    "event_id": "0193a7c0-0000-7000-8000-000000000001",
    "id": "0193a7c0-0000-7000-8000-000000000001",
    "ResolveItemRequest.name": "accounts/settlement-eur/items/bank-5",
    "GetReconciliationRequest.name": "accounts/settlement-eur/reconciliation",
    "value": "1.1",
}

NUMBERS = {
    # Field name → number, where 1 would say little.
    "minor_units": 1050,
    "page_size": 10,
    "sequence": 7,
    "version": 2,
}

_EUR = {"currencyCode": "EUR", "minorUnits": "1050"}
_LEGS = [
    {"account": "accounts/position-eur", "amount": {"currencyCode": "EUR", "minorUnits": "-300"}},
    {"account": "accounts/fees-eur", "amount": {"currencyCode": "EUR", "minorUnits": "300"}},
]
_RATE = {
    "baseCurrencyCode": "EUR",
    "counterCurrencyCode": "USD",
    "rate": {"value": "1.1"},
    "spreadPercent": {"value": "0.5"},
    "source": "ECB",
    "rateTime": "2026-01-02T03:04:05Z",
}
_SCHEDULE = {
    "debitAccount": "accounts/ada",
    "creditAccount": "accounts/ada-savings",
    "amount": _EUR,
    "startDate": "2099-01-01",
    "localTime": "09:00",
    "timeZone": "Europe/Berlin",
}

_MATCH = {
    "account": "accounts/settlement-eur",
    "ledgerItems": ["accounts/settlement-eur/items/ledger-3"],
    "bankItems": ["accounts/settlement-eur/items/bank-5"],
}

BRIEF: dict[str, dict[str, Any]] = {
    "florin.accounts.v1.CreateAccountRequest": {"customers": ["customers/ada"]},
    "florin.accounts.v1.PostJournalRequest": {"legs": _LEGS},
    "florin.accounts.v1.UpdateAccountRequest": {
        "account": {"name": "accounts/ada", "displayName": "Household"},
        "updateMask": "displayName",
    },
    "florin.accounts.v1.UpdateCustomerRequest": {
        "customer": {"name": "customers/ada", "displayName": "Ada Beispiel"},
        "updateMask": "displayName",
    },
    "florin.accounts.v1.MatchItemsRequest": _MATCH,
    "florin.notifications.v1.ReplayDeliveriesRequest": {"startTime": "2026-01-02T03:04:05Z"},
    "florin.notifications.v1.UpdateWebhookEndpointRequest": {
        "endpoint": {"name": "webhookEndpoints/example", "description": "Payments"},
        "updateMask": "description",
    },
    "florin.transactions.v1.ImportExchangeRatesRequest": {"exchangeRates": [_RATE]},
    "florin.transactions.v1.CreateScheduleRequest": {"schedule": _SCHEDULE},
    "florin.transactions.v1.UpdateScheduleRequest": {
        "schedule": {"name": "schedules/example", "amount": _EUR},
        "updateMask": "amount",
    },
}
"""Message → its fields in JSON that a short example has beside those that every request needs."""

FULL: dict[str, dict[str, Any]] = {
    "florin.accounts.v1.PostJournalRequest": {"legs": _LEGS},
    "florin.accounts.v1.MatchItemsRequest": _MATCH,
    "florin.transactions.v1.ExchangeRate": _RATE,
    "florin.transactions.v1.CreateScheduleRequest": {"schedule": _SCHEDULE},
}
"""Message → its fields in JSON where a full example would break a rule."""

SKIPPED: set[tuple[str, str]] = {
    ("florin.accounts.v1.GetBalanceRequest", "as_of_effective_time"),
    ("florin.accounts.v1.GetBalanceRequest", "as_of_sequence"),
    ("florin.accounts.v1.ListEntriesRequest", "as_of_effective_time"),
    ("florin.accounts.v1.ListEntriesRequest", "as_of_sequence"),
    ("florin.notifications.v1.ReplayDeliveriesRequest", "delivery"),
    ("florin.transactions.v1.CreateTransferRequest", "quote"),
    ("florin.transactions.v1.CreateTransferRequest", "state_token"),
}
"""Fields of full examples that another one excludes."""
