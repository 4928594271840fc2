// Exact amounts: decimal text to minor units and back; numbers with a fraction never come near.
import { create } from "@bufbuild/protobuf";
import { type Money, MoneySchema } from "./gen/florin/common/v1/money_pb.js";
import { CURRENCIES } from "./tables.js";

const INT64_MAX = 2n ** 63n - 1n;

/**
 * An amount of a currency, exactly: money("10.50", "EUR") has 1050n minor units. Throws RangeError when the currency is
 * unknown, the text is no plain decimal number, has more decimal places than the currency, or does not fit 64 bits.
 */
export function money(amount: string, currencyCode: string): Money {
  const places = placesOf(currencyCode);
  const parts = /^(-?)([0-9]+)(?:\.([0-9]+))?$/.exec(amount);
  if (parts === null) throw new RangeError(`"${amount}" is not an amount`);
  const fraction = (parts[3] ?? "").replace(/0+$/, "");
  if (fraction.length > places) {
    throw new RangeError(`"${amount}" has more decimal places than ${currencyCode} has (${places})`);
  }
  const digits = BigInt(`${parts[2]}${fraction.padEnd(places, "0")}`);
  const minorUnits = parts[1] === "-" ? -digits : digits;
  if (minorUnits > INT64_MAX || minorUnits < -INT64_MAX - 1n) throw new RangeError(`"${amount}" is too large`);
  return create(MoneySchema, { currencyCode, minorUnits });
}

/** The amount as people write it, with its currency: "10.50 EUR". Throws RangeError for an unknown currency. */
export function formatMoney(amount: Money): string {
  const places = placesOf(amount.currencyCode);
  const sign = amount.minorUnits < 0n ? "-" : "";
  const digits = (sign ? -amount.minorUnits : amount.minorUnits).toString().padStart(places + 1, "0");
  const text = places === 0 ? digits : `${digits.slice(0, -places)}.${digits.slice(-places)}`;
  return `${sign}${text} ${amount.currencyCode}`;
}

function placesOf(currencyCode: string): number {
  const places = CURRENCIES[currencyCode];
  if (places === undefined) throw new RangeError(`"${currencyCode}" is no currency of ISO 4217`);
  return places;
}
