package florin.client;

import florin.common.v1.Money;
import java.math.BigDecimal;

/** Exact amounts: decimal text to minor units and back; there is no double anywhere. */
public final class Amounts {
  private Amounts() {}

  /**
   * An amount of a currency, exactly: {@code money("10.50", "EUR")} has 1050 minor units.
   *
   * @throws IllegalArgumentException when the currency is unknown, the text is no plain decimal number, has more decimal
   *     places than the currency, or does not fit 64 bits
   */
  public static Money money(String amount, String currencyCode) {
    int places = places(currencyCode);
    if (!amount.matches("-?[0-9]{1,40}(\\.[0-9]{1,40})?")) {
      throw new IllegalArgumentException("\"" + amount + "\" is not an amount");
    }
    try {
      long minorUnits = new BigDecimal(amount).movePointRight(places).longValueExact();
      return Money.newBuilder().setCurrencyCode(currencyCode).setMinorUnits(minorUnits).build();
    } catch (ArithmeticException error) {
      throw new IllegalArgumentException(
          "\"" + amount + "\" is too large or has more decimal places than " + currencyCode + " has (" + places + ")", error);
    }
  }

  /**
   * The amount as people write it, with its currency: "10.50 EUR".
   *
   * @throws IllegalArgumentException for an unknown currency
   */
  public static String format(Money amount) {
    int places = places(amount.getCurrencyCode());
    return BigDecimal.valueOf(amount.getMinorUnits(), places).toPlainString() + " " + amount.getCurrencyCode();
  }

  private static int places(String currencyCode) {
    Integer places = Tables.CURRENCIES.get(currencyCode);
    if (places == null) {
      throw new IllegalArgumentException("\"" + currencyCode + "\" is no currency of ISO 4217");
    }
    return places;
  }
}
