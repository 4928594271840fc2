package florin.client;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.stream.Collectors;

/** What the client knows of the contracts beside its stubs: lines of a name and a number. */
final class Tables {
  /** Methods that may be sent again, and the milliseconds that one try may take. */
  static final Map<String, Integer> METHODS = read("methods.txt");

  /** Currencies of ISO 4217, and their decimal places. */
  static final Map<String, Integer> CURRENCIES = read("currencies.txt");

  private Tables() {}

  private static Map<String, Integer> read(String name) {
    try (var reader =
        new BufferedReader(
            new InputStreamReader(Tables.class.getResourceAsStream(name), StandardCharsets.UTF_8))) {
      return reader
          .lines()
          .map(line -> line.split(" "))
          .collect(Collectors.toUnmodifiableMap(parts -> parts[0], parts -> Integer.valueOf(parts[1])));
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }
}
