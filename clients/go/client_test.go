package client_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	client "florin.example/client"
	accountsv1 "florin.example/client/florin/accounts/v1"
	commonv1 "florin.example/client/florin/common/v1"
	transactionsv1 "florin.example/client/florin/transactions/v1"
)

// `make clients` says where the mesh is: EDGE (behind a proxy that can lose answers), CA, TOKEN, CONTROL.
func connected(t *testing.T) *client.Client {
	t.Helper()
	florin, err := client.New(os.Getenv("EDGE"), client.Options{
		Token: client.StaticToken(os.Getenv("TOKEN")), CAFile: os.Getenv("CA"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = florin.Close() })
	return florin
}

// tell tells the proxy what to do from now on: cut (lose the next answer), or break (every connection, at once).
func tell(t *testing.T, word string) {
	t.Helper()
	control, err := net.Dial("tcp", os.Getenv("CONTROL"))
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	fmt.Fprintln(control, word)
	if said, err := bufio.NewReader(control).ReadString('\n'); said != "ok\n" {
		t.Fatal(said, err)
	}
}

// payment is a transfer without a request_id: the client gives it one.
func payment(t *testing.T, account string) *transactionsv1.CreateTransferRequest {
	t.Helper()
	amount, err := client.Money("10.00", "EUR")
	if err != nil {
		t.Fatal(err)
	}
	return &transactionsv1.CreateTransferRequest{
		DebitAccount: account, CreditAccount: "accounts/ada-savings", Amount: amount,
	}
}

func posted(t *testing.T, florin *client.Client, account string) int64 {
	t.Helper()
	answer, err := florin.Accounts.GetBalance(t.Context(), &accountsv1.GetBalanceRequest{Name: account})
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetBalance().GetPosted().GetMinorUnits()
}

// The connection breaks after the payment went in, and before its answer comes.
func TestALostAnswerIsAskedForAgainAndPaidOnce(t *testing.T) {
	florin := connected(t)
	before := posted(t, florin, "accounts/lost")
	tell(t, "cut")
	paid, err := florin.Transfers.CreateTransfer(t.Context(), payment(t, "accounts/lost"))
	if err != nil || paid.GetTransfer().GetState() != transactionsv1.TransferState_TRANSFER_STATE_COMPLETED {
		t.Fatal(paid, err)
	}
	if after := posted(t, florin, "accounts/lost"); after != before-1000 {
		t.Fatalf("%d became %d", before, after)
	}
}

// Every connection breaks between two payments; both entries come, once.
func TestAnAccountIsWatchedAcrossABreakWithoutAGap(t *testing.T) {
	florin := connected(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var sequences []int64
	first := int64(-1)
	for change, err := range florin.WatchAccount(ctx, "accounts/watched", nil) {
		if err != nil {
			t.Fatal(err)
		}
		if first < 0 {
			first = change.GetSequence()
			tell(t, "break")
			for range 2 {
				if _, err := florin.Transfers.CreateTransfer(ctx, payment(t, "accounts/watched")); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, entry := range change.GetEntries() {
			sequences = append(sequences, entry.GetSequence())
		}
		if len(sequences) == 2 {
			break
		}
	}
	if fmt.Sprint(sequences) != fmt.Sprint([]int64{first + 1, first + 2}) {
		t.Fatal(first, sequences)
	}
}

func TestARefusalIsAnErrorWithItsReason(t *testing.T) {
	florin := connected(t)
	_, err := florin.Accounts.GetAccount(t.Context(), &accountsv1.GetAccountRequest{Name: "accounts/nobodys"})
	var refused *client.Refused
	if !errors.As(err, &refused) || refused.Reason != "ACCOUNT_NOT_FOUND" || !client.IsNotFound(err) {
		t.Fatal(err)
	}
	if refused.Metadata["account"] != "accounts/nobodys" {
		t.Fatal(refused.Metadata)
	}
	_, err = florin.Accounts.GetAccount(t.Context(), &accountsv1.GetAccountRequest{Name: "nobodys"})
	if !errors.As(err, &refused) || len(refused.Violations()) != 1 || refused.Violations()[0].GetField() != "name" {
		t.Fatal(err)
	}
	for _, err := range florin.WatchAccount(t.Context(), "accounts/nobodys", nil) {
		if !client.IsNotFound(err) {
			t.Fatal(err)
		}
	}
}

func TestWhoNeverAnswersIsGivenUp(t *testing.T) {
	florin, err := client.New("127.0.0.1:1", client.Options{
		Token: client.StaticToken("any"), Patience: 300 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer florin.Close()
	_, err = florin.Accounts.GetAccount(t.Context(), &accountsv1.GetAccountRequest{Name: "accounts/ada"})
	var refused *client.Refused
	if !errors.As(err, &refused) || refused.Reason != "" {
		t.Fatal(err)
	}
}

func TestAListIsAllItsPages(t *testing.T) {
	florin := connected(t)
	whole, err := florin.Accounts.ListAccounts(t.Context(), &accountsv1.ListAccountsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	small := &accountsv1.ListAccountsRequest{PageSize: 2}
	items := client.Items(t.Context(), florin.Accounts.ListAccounts, small, (*accountsv1.ListAccountsResponse).GetAccounts)
	for account, err := range items {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, account.GetName())
	}
	if len(names) < 3 || len(names) != len(whole.GetAccounts()) {
		t.Fatal(names)
	}
	for at, account := range whole.GetAccounts() {
		if names[at] != account.GetName() {
			t.Fatal(names)
		}
	}
}

func TestMoneyIsExact(t *testing.T) {
	for _, one := range []struct {
		amount, currency string
		minor            int64
	}{
		{"10.50", "EUR", 1050}, {"-0.01", "EUR", -1}, {"1050", "JPY", 1050}, {"1.050", "KWD", 1050}, {"1.000", "JPY", 1},
		{"92233720368547758.07", "EUR", 9223372036854775807},
	} {
		made, err := client.Money(one.amount, one.currency)
		if err != nil || !proto.Equal(made, &commonv1.Money{CurrencyCode: one.currency, MinorUnits: one.minor}) {
			t.Error(one, made, err)
		}
	}
	for _, wrong := range []string{"0.001", "1e3", "", ".5", "5.", "+1", "NaN", "92233720368547758.08"} {
		if made, err := client.Money(wrong, "EUR"); err == nil {
			t.Error(wrong, made)
		}
	}
	if _, err := client.Money("1", "XYZ"); err == nil {
		t.Error("XYZ is a currency")
	}
	shown, err := client.FormatMoney(&commonv1.Money{CurrencyCode: "EUR", MinorUnits: -5})
	if err != nil || shown != "-0.05 EUR" {
		t.Error(shown, err)
	}
}
