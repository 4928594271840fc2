package client

import (
	_ "embed"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	commonv1 "florin.example/client/florin/common/v1"
)

//go:embed currencies.txt
var currenciesText string

// places has the decimal places of every currency of ISO 4217.
var places = func() map[string]int {
	found := map[string]int{}
	for line := range strings.Lines(currenciesText) {
		code, digits, _ := strings.Cut(strings.TrimSpace(line), " ")
		number, err := strconv.Atoi(digits)
		if err != nil {
			panic("florin: currencies.txt is damaged: " + line)
		}
		found[code] = number
	}
	return found
}()

var decimal = regexp.MustCompile(`^(-?[0-9]+)(?:\.([0-9]+))?$`)

// Money is an amount of a currency, exactly: Money("10.50", "EUR") has 1050 minor units. It refuses an unknown currency,
// and what is no plain decimal number, has more decimal places than the currency, or does not fit 64 bits.
func Money(amount, currency string) (*commonv1.Money, error) {
	digits, known := places[currency]
	if !known {
		return nil, fmt.Errorf("florin: %q is no currency of ISO 4217", currency)
	}
	parts := decimal.FindStringSubmatch(amount)
	if parts == nil {
		return nil, fmt.Errorf("florin: %q is not an amount", amount)
	}
	fraction := strings.TrimRight(parts[2], "0")
	if len(fraction) > digits {
		return nil, fmt.Errorf("florin: %q has more decimal places than %s has (%d)", amount, currency, digits)
	}
	minor, err := strconv.ParseInt(parts[1]+fraction+strings.Repeat("0", digits-len(fraction)), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("florin: %q is too large", amount)
	}
	return &commonv1.Money{CurrencyCode: currency, MinorUnits: minor}, nil
}

// FormatMoney is the amount as people write it, with its currency: "10.50 EUR".
func FormatMoney(amount *commonv1.Money) (string, error) {
	digits, known := places[amount.GetCurrencyCode()]
	if !known {
		return "", fmt.Errorf("florin: %q is no currency of ISO 4217", amount.GetCurrencyCode())
	}
	text, sign := strconv.FormatInt(amount.GetMinorUnits(), 10), ""
	if strings.HasPrefix(text, "-") {
		text, sign = text[1:], "-"
	}
	if digits > 0 {
		text = strings.Repeat("0", max(0, digits+1-len(text))) + text
		text = text[:len(text)-digits] + "." + text[len(text)-digits:]
	}
	return sign + text + " " + amount.GetCurrencyCode(), nil
}
