package florin.client;

import com.google.protobuf.Message;
import florin.accounts.v1.WatchAccountRequest;
import florin.accounts.v1.WatchAccountResponse;
import florin.notifications.v1.StreamEventsRequest;
import florin.notifications.v1.StreamEventsResponse;
import io.grpc.ChannelCredentials;
import io.grpc.ClientInterceptors;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import java.io.File;
import java.io.IOException;
import java.time.Duration;
import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import java.util.function.Supplier;

/**
 * A connection to Florin's edge, with a blocking stub of each public service. Threads may share it.
 *
 * <p>A stub throws gRPC's StatusRuntimeException; {@link #call} throws {@link Refused}, which is one too.
 */
public final class FlorinClient extends Services implements AutoCloseable {
  /** How long a call that got no answer is sent again. */
  public static final Duration PATIENCE = Duration.ofSeconds(30);

  private final ManagedChannel channel;
  private final ScheduledExecutorService timer;
  private final Duration patience;

  private FlorinClient(ManagedChannel channel, Supplier<String> token, Duration patience, ScheduledExecutorService timer) {
    super(ClientInterceptors.intercept(channel, new Sending(token, patience, timer)));
    this.channel = channel;
    this.timer = timer;
    this.patience = patience;
  }

  /** A client for an edge, host and port, whose certificate authority is in a file. The token is asked for before every try. */
  public static FlorinClient connect(String target, Supplier<String> token, File ca) throws IOException {
    return connect(target, token, TlsChannelCredentials.newBuilder().trustManager(ca).build(), PATIENCE);
  }

  /** A client with credentials and a patience of its own. */
  public static FlorinClient connect(String target, Supplier<String> token, ChannelCredentials credentials, Duration patience) {
    ScheduledExecutorService timer =
        Executors.newSingleThreadScheduledExecutor(
            work -> {
              Thread thread = new Thread(work, "florin-client");
              thread.setDaemon(true);
              return thread;
            });
    ManagedChannel channel = Grpc.newChannelBuilder(target, credentials).disableRetry().build();
    return new FlorinClient(channel, token, patience, timer);
  }

  /** Calls a method: {@code call(florin.transfers::createTransfer, request)}. */
  public static <Q, A> A call(Function<Q, A> method, Q request) {
    try {
      return method.apply(request);
    } catch (StatusRuntimeException error) {
      throw Refused.of(error.getStatus(), error.getTrailers());
    }
  }

  /** All items of a list, however many pages they come in: {@code items(florin.transfers::listTransfers, request, Page::getList)}. */
  public static <Q extends Message, A extends Message, T> Iterable<T> items(Function<Q, A> list, Q request, Function<A, List<T>> of) {
    return () ->
        new Iterator<>() {
          private A page = call(list, request);
          private Iterator<T> present = of.apply(page).iterator();

          @Override
          @SuppressWarnings("unchecked")
          public boolean hasNext() {
            while (!present.hasNext()) {
              String token = (String) page.getField(page.getDescriptorForType().findFieldByName("next_page_token"));
              if (token.isEmpty()) {
                return false;
              }
              var field = request.getDescriptorForType().findFieldByName("page_token");
              page = call(list, (Q) request.toBuilder().setField(field, token).build());
              present = of.apply(page).iterator();
            }
            return true;
          }

          @Override
          public T next() {
            if (!hasNext()) {
              throw new NoSuchElementException();
            }
            return present.next();
          }
        };
  }

  /** An account's balance and entries as they come, for ever; after a break it goes on where it was. */
  public Iterator<WatchAccountResponse> watchAccount(WatchAccountRequest request) {
    return new Endless<>(
        request,
        balances::watchAccount,
        (known, change) -> known.toBuilder().setAfterSequence(change.getSequence()).build());
  }

  /** Events as they happen, for ever; after a break they go on after the last one. */
  public Iterator<StreamEventsResponse> events(StreamEventsRequest request) {
    return new Endless<>(
        request,
        notifications::streamEvents,
        (known, answer) -> known.toBuilder().setResumeToken(answer.getEvent().getResumeToken()).build());
  }

  @Override
  public void close() {
    timer.shutdown(); // calls that wait for their next try make it, and find the channel closed
    channel.shutdownNow();
    try {
      channel.awaitTermination(5, TimeUnit.SECONDS);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  private interface Remember<Q, A> {
    Q after(Q request, A answer);
  }

  /** The answers of a stream that is opened again where it broke. */
  private final class Endless<Q, A> implements Iterator<A> {
    private final Function<Q, Iterator<A>> open;
    private final Remember<Q, A> remember;
    private Q request;
    private Iterator<A> present;
    private Patience waiting = new Patience(patience);

    Endless(Q request, Function<Q, Iterator<A>> open, Remember<Q, A> remember) {
      this.request = request;
      this.open = open;
      this.remember = remember;
    }

    @Override
    public boolean hasNext() {
      return true;
    }

    @Override
    public A next() {
      while (true) {
        Duration asked = Duration.ZERO;
        Refused refused = null;
        try {
          present = present == null ? open.apply(request) : present;
          if (present.hasNext()) {
            A answer = present.next();
            request = remember.after(request, answer);
            waiting = new Patience(patience);
            return answer;
          }
        } catch (StatusRuntimeException error) {
          refused = Refused.of(error.getStatus(), error.getTrailers());
          if (!Patience.mayHelp(refused) && !refused.reason().equals("TOKEN_INVALID")) {
            throw refused;
          }
          asked = refused.retryAfter();
        }
        present = null;
        pause(waiting.pauseMs(asked), refused);
      }
    }

    private void pause(long pauseMs, Refused refused) {
      if (pauseMs < 0) {
        throw refused != null ? refused : new NoSuchElementException("the stream ends whenever it is opened");
      }
      try {
        Thread.sleep(pauseMs);
      } catch (InterruptedException interrupted) {
        Thread.currentThread().interrupt();
        throw new NoSuchElementException("interrupted");
      }
    }
  }
}
