package florin.client;

import java.time.Duration;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;

/** How long one call may be sent again, and how long to wait before the next time. */
final class Patience {
  private static final long FIRST_MS = 100;
  private static final long LAST_MS = 2000;
  private static final Set<String> ASKED_AGAIN =
      Set.of(
          "UNAVAILABLE",
          "OVERLOADED",
          "RATE_LIMITED",
          "CONTENTION",
          "CAPTURE_UNDER_WAY",
          "DEADLINE_TOO_SHORT",
          "DEADLINE_EXCEEDED");

  private final long endNanos;
  private long pauseMs = FIRST_MS;

  Patience(Duration length) {
    endNanos = System.nanoTime() + length.toNanos();
  }

  /** Whether asking again may bring another answer. */
  static boolean mayHelp(Refused refused) {
    if (!refused.reason().isEmpty()) {
      return ASKED_AGAIN.contains(refused.reason());
    }
    return switch (refused.getStatus().getCode()) {
      // UNKNOWN is what Netty's transport calls a connection that broke while it wrote; Florin's own always has a reason.
      case UNAVAILABLE, DEADLINE_EXCEEDED, INTERNAL, UNKNOWN -> true;
      default -> false;
    };
  }

  /** Milliseconds to wait before the next try, at random so that callers spread; less than zero when it is over. */
  long pauseMs(Duration asked) {
    long pause = Math.max(asked.toMillis(), ThreadLocalRandom.current().nextLong(pauseMs / 2, pauseMs + 1));
    pauseMs = Math.min(pauseMs * 2, LAST_MS);
    return System.nanoTime() + pause * 1_000_000 - endNanos > 0 ? -1 : pause;
  }
}
