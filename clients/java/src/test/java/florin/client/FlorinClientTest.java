package florin.client;

import static florin.client.FlorinClient.call;
import static florin.client.FlorinClient.items;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import florin.accounts.v1.Account;
import florin.accounts.v1.GetAccountRequest;
import florin.accounts.v1.GetBalanceRequest;
import florin.accounts.v1.ListAccountsRequest;
import florin.accounts.v1.ListAccountsResponse;
import florin.accounts.v1.WatchAccountRequest;
import florin.common.v1.Money;
import florin.transactions.v1.CreateTransferRequest;
import florin.transactions.v1.TransferState;
import io.grpc.TlsChannelCredentials;
import java.io.File;
import java.io.IOException;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** The client against a mesh that loses its answers; `make clients` says where it is (EDGE, CA, TOKEN, CONTROL). */
class FlorinClientTest {
  private FlorinClient florin;

  @BeforeEach
  void connect() throws IOException {
    florin = FlorinClient.connect(System.getenv("EDGE"), () -> System.getenv("TOKEN"), new File(System.getenv("CA")));
  }

  @AfterEach
  void close() {
    florin.close();
  }

  /** Tells the proxy what to do from now on: cut (lose the next answer), or break (every connection, at once). */
  private static void tell(String word) throws IOException {
    String[] place = System.getenv("CONTROL").split(":");
    try (Socket control = new Socket(place[0], Integer.parseInt(place[1]))) {
      control.getOutputStream().write((word + "\n").getBytes(StandardCharsets.US_ASCII));
      assertEquals("ok\n", new String(control.getInputStream().readAllBytes(), StandardCharsets.US_ASCII));
    }
  }

  /** A transfer without a request_id: the client gives it one. */
  private static CreateTransferRequest payment(String account) {
    return CreateTransferRequest.newBuilder()
        .setDebitAccount(account)
        .setCreditAccount("accounts/ada-savings")
        .setAmount(Amounts.money("10.00", "EUR"))
        .build();
  }

  private long posted(String account) {
    var request = GetBalanceRequest.newBuilder().setName(account).build();
    return call(florin.accounts::getBalance, request).getBalance().getPosted().getMinorUnits();
  }

  /** The connection breaks after the payment went in, and before its answer comes. */
  @Test
  void aLostAnswerIsAskedForAgainAndPaidOnce() throws IOException {
    long before = posted("accounts/lost");
    tell("cut");
    var paid = call(florin.transfers::createTransfer, payment("accounts/lost")).getTransfer();
    assertEquals(TransferState.TRANSFER_STATE_COMPLETED, paid.getState());
    assertEquals(before - 1000, posted("accounts/lost"));
  }

  /** Every connection breaks between two payments; both entries come, once. */
  @Test
  void anAccountIsWatchedAcrossABreakWithoutAGap() throws IOException {
    var changes = florin.watchAccount(WatchAccountRequest.newBuilder().setName("accounts/watched").build());
    long first = changes.next().getSequence();
    tell("break");
    for (int payments = 0; payments < 2; payments++) {
      call(florin.transfers::createTransfer, payment("accounts/watched"));
    }
    List<Long> sequences = new ArrayList<>();
    while (sequences.size() < 2) {
      changes.next().getEntriesList().forEach(entry -> sequences.add(entry.getSequence()));
    }
    assertEquals(List.of(first + 1, first + 2), sequences);
  }

  @Test
  void aRefusalIsAnExceptionWithItsReason() {
    var nobodys = GetAccountRequest.newBuilder().setName("accounts/nobodys").build();
    Refused refused = assertThrows(Refused.class, () -> call(florin.accounts::getAccount, nobodys));
    assertEquals("ACCOUNT_NOT_FOUND", refused.reason());
    assertEquals("accounts/nobodys", refused.metadata().get("account"));
    assertTrue(refused.isNotFound());
    var wrong = GetAccountRequest.newBuilder().setName("nobodys").build();
    Refused invalid = assertThrows(Refused.class, () -> call(florin.accounts::getAccount, wrong));
    assertEquals("name", invalid.violations().get(0).getField());
    var changes = florin.watchAccount(WatchAccountRequest.newBuilder().setName("accounts/nobodys").build());
    assertEquals("ACCOUNT_NOT_FOUND", assertThrows(Refused.class, changes::next).reason());
  }

  @Test
  void whoNeverAnswersIsGivenUp() {
    var credentials = TlsChannelCredentials.create();
    try (var stranger = FlorinClient.connect("127.0.0.1:1", () -> "any", credentials, Duration.ofMillis(300))) {
      var request = GetAccountRequest.newBuilder().setName("accounts/ada").build();
      assertEquals("", assertThrows(Refused.class, () -> call(stranger.accounts::getAccount, request)).reason());
    }
  }

  @Test
  void aListIsAllItsPages() {
    List<String> whole = new ArrayList<>();
    call(florin.accounts::listAccounts, ListAccountsRequest.getDefaultInstance())
        .getAccountsList()
        .forEach(account -> whole.add(account.getName()));
    var small = ListAccountsRequest.newBuilder().setPageSize(2).build();
    List<String> names = new ArrayList<>();
    for (Account account : items(florin.accounts::listAccounts, small, ListAccountsResponse::getAccountsList)) {
      names.add(account.getName());
    }
    assertTrue(names.size() > 2);
    assertEquals(whole, names);
  }

  @Test
  void moneyIsExact() {
    assertEquals(1050, Amounts.money("10.50", "EUR").getMinorUnits());
    assertEquals(-1, Amounts.money("-0.01", "EUR").getMinorUnits());
    assertEquals(1050, Amounts.money("1050", "JPY").getMinorUnits());
    assertEquals(1050, Amounts.money("1.050", "KWD").getMinorUnits());
    for (String wrong : List.of("0.001", "1e3", "", ".5", "5.", "+1", "NaN", "92233720368547758.08")) {
      assertThrows(IllegalArgumentException.class, () -> Amounts.money(wrong, "EUR"), wrong);
    }
    assertThrows(IllegalArgumentException.class, () -> Amounts.money("1", "XYZ"));
    assertEquals("-0.05 EUR", Amounts.format(Money.newBuilder().setCurrencyCode("EUR").setMinorUnits(-5).build()));
  }
}
