// The client against a mesh that loses its answers; `make clients` says where it is (EDGE, CA, TOKEN, CONTROL).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createConnection } from "node:net";
import { test } from "node:test";
import { connect, formatMoney, InsufficientFunds, items, money, Refused } from "florin-client";
import { TransferState } from "florin-client/gen/florin/transactions/v1/transfer_pb";
import { connect as connectWeb } from "florin-client/web";

const { EDGE, TOKEN, CA, CONTROL } = process.env;
const byGrpc = () => connect(EDGE, { token: TOKEN, ca: readFileSync(CA) });
const byWeb = () => connectWeb(`https://${EDGE}`, { token: () => TOKEN });
const payment = (debitAccount) => ({ debitAccount, creditAccount: "accounts/ada-savings", amount: money("10.00", "EUR") });

/** Tells the proxy what to do from now on: cut (lose the next answer), or break (every connection, at once). */
async function tell(word) {
  const [host, port] = CONTROL.split(":");
  const said = await new Promise((resolve, reject) => {
    const control = createConnection(Number(port), host, () => control.write(`${word}\n`));
    control.once("data", resolve).once("error", reject);
  });
  assert.equal(String(said), "ok\n");
}

async function posted(florin, name) {
  return (await florin.accounts.getBalance({ name })).balance.posted.minorUnits;
}

for (const [way, client] of [["gRPC", byGrpc], ["gRPC-Web", byWeb]]) {
  test(`an answer that is lost is asked for again and paid once, by ${way}`, async () => {
    const florin = client();
    const before = await posted(florin, "accounts/lost");
    await tell("cut");
    const paid = await florin.transfers.createTransfer(payment("accounts/lost"));
    assert.equal(paid.transfer.state, TransferState.COMPLETED);
    assert.equal(await posted(florin, "accounts/lost"), before - 1000n);
  });

  test(`an account is watched across a break without a gap, by ${way}`, async () => {
    const florin = client();
    const sequences = [];
    let first;
    for await (const change of florin.watchAccount("accounts/watched", { signal: AbortSignal.timeout(30_000) })) {
      if (first === undefined) {
        first = change.sequence;
        await tell("break");
        for (let payments = 0; payments < 2; payments++) await florin.transfers.createTransfer(payment("accounts/watched"));
      }
      sequences.push(...change.entries.map((entry) => entry.sequence));
      if (sequences.length === 2) break;
    }
    assert.deepEqual(sequences, [first + 1n, first + 2n]);
  });

  test(`a refusal is an error with its reason, by ${way}`, async () => {
    const florin = client();
    await assert.rejects(florin.accounts.getAccount({ name: "accounts/nobodys" }), (error) => {
      assert.ok(error instanceof Refused && error.isNotFound);
      assert.equal(error.reason, "ACCOUNT_NOT_FOUND");
      assert.deepEqual(error.values, { account: "accounts/nobodys" });
      return true;
    });
    await assert.rejects(florin.accounts.getAccount({ name: "nobodys" }), (error) => {
      assert.deepEqual(error.violations.map((one) => one.field), ["name"]);
      return true;
    });
    await assert.rejects(florin.transfers.createTransfer({ ...payment("accounts/ada"), amount: money("900", "EUR") }), (error) => {
      assert.ok(error instanceof InsufficientFunds);
      assert.equal(formatMoney(error.requested), "900.00 EUR");
      return true;
    });
    await assert.rejects(async () => {
      for await (const _ of florin.watchAccount("accounts/nobodys")) assert.fail("it has no balance");
    }, { reason: "ACCOUNT_NOT_FOUND" });
  });
}

test("who never answers is given up", async () => {
  const florin = connect("127.0.0.1:1", { token: "any", patienceMs: 300 });
  await assert.rejects(florin.accounts.getAccount({ name: "accounts/ada" }), (error) => {
    assert.ok(error instanceof Refused);
    assert.equal(error.reason, "");
    return true;
  });
});

test("a list is all its pages", async () => {
  const florin = byGrpc();
  const whole = (await florin.accounts.listAccounts({})).accounts.map((account) => account.name);
  const small = [];
  const pages = items((request) => florin.accounts.listAccounts(request), { pageSize: 2 }, (page) => page.accounts);
  for await (const account of pages) small.push(account.name);
  assert.ok(small.length > 2);
  assert.deepEqual(small, whole);
});

test("money is exact", () => {
  for (const [amount, currency, minorUnits] of [
    ["10.50", "EUR", 1050n], ["-0.01", "EUR", -1n], ["1050", "JPY", 1050n], ["1.050", "KWD", 1050n],
    ["92233720368547758.07", "EUR", 9223372036854775807n],
  ]) assert.equal(money(amount, currency).minorUnits, minorUnits);
  for (const wrong of ["0.001", "1e3", "", ".5", "5.", "+1", "NaN", "92233720368547758.08"]) {
    assert.throws(() => money(wrong, "EUR"), RangeError);
  }
  assert.throws(() => money("1", "XYZ"), RangeError);
  assert.equal(formatMoney(money("-0.05", "EUR")), "-0.05 EUR");
});
