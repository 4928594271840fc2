package florin.client;

import com.google.protobuf.Descriptors.FieldDescriptor;
import com.google.protobuf.Message;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.Status;
import java.time.Duration;
import java.util.UUID;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/**
 * Gives every call the token, and sends calls again that got no answer: the very same request, with the same request_id, so
 * that it is done once.
 *
 * <p>That is safe for every method of methods.txt, which the contracts declare idempotent: what changes something is known by
 * its request_id.
 */
final class Sending implements ClientInterceptor {
  private static final Metadata.Key<String> AUTHORIZATION = Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

  private final Supplier<String> token;
  private final Duration patience;
  private final ScheduledExecutorService timer;

  Sending(Supplier<String> token, Duration patience, ScheduledExecutorService timer) {
    this.token = token;
    this.patience = patience;
    this.timer = timer;
  }

  @Override
  public <Q, A> ClientCall<Q, A> interceptCall(MethodDescriptor<Q, A> method, CallOptions options, Channel next) {
    Integer deadlineMs = Tables.METHODS.get("/" + method.getFullMethodName());
    if (method.getType() == MethodType.UNARY && deadlineMs != null) {
      return new Repeated<>(method, options, next, deadlineMs);
    }
    return new SimpleForwardingClientCall<>(next.newCall(method, options)) {
      @Override
      public void start(Listener<A> listener, Metadata headers) {
        headers.put(AUTHORIZATION, "Bearer " + token.get());
        super.start(listener, headers);
      }
    };
  }

  /** A call of one request and one answer, as often as it takes. What is told to it is told to the present try. */
  private final class Repeated<Q, A> extends ClientCall<Q, A> {
    private final MethodDescriptor<Q, A> method;
    private final CallOptions options;
    private final Channel next;
    private final int deadlineMs;
    private final Patience waiting = new Patience(patience);
    private Listener<A> listener;
    private Metadata headers;
    private Q request;
    private ClientCall<Q, A> present;
    private boolean cancelled;

    Repeated(MethodDescriptor<Q, A> method, CallOptions options, Channel next, int deadlineMs) {
      this.method = method;
      this.options = options;
      this.next = next;
      this.deadlineMs = deadlineMs;
    }

    @Override
    public void start(Listener<A> listener, Metadata headers) {
      this.listener = listener;
      this.headers = headers;
    }

    @Override
    public void request(int numMessages) {} // each try asks for its one answer

    @Override
    public synchronized void cancel(String message, Throwable cause) {
      boolean begun = present != null;
      cancelled = true;
      if (begun) {
        present.cancel(message, cause);
      } else {
        listener.onClose(Status.CANCELLED.withDescription(message).withCause(cause), new Metadata());
      }
    }

    @Override
    @SuppressWarnings("unchecked")
    public void sendMessage(Q message) {
      request = message instanceof Message one ? (Q) withKeys(one) : message;
    }

    @Override
    public synchronized void halfClose() {
      if (!cancelled) { // else its listener was told so already
        tryOnce();
      }
    }

    private synchronized void tryOnce() {
      if (cancelled) {
        listener.onClose(Status.CANCELLED, new Metadata());
        return;
      }
      Metadata sent = new Metadata();
      sent.merge(headers);
      sent.put(AUTHORIZATION, "Bearer " + token.get());
      // Whichever is sooner: the end of this try, or what the caller set for all of them.
      CallOptions limited = options.withDeadlineAfter(deadlineMs, TimeUnit.MILLISECONDS);
      if (options.getDeadline() != null) {
        limited = limited.withDeadline(options.getDeadline().minimum(limited.getDeadline()));
      }
      present = next.newCall(method, limited);
      present.start(new Answer(), sent);
      present.request(2);
      present.sendMessage(request);
      present.halfClose();
    }

    /** Has the next try made; false where the client was closed meanwhile. */
    private boolean later(long pauseMs) {
      try {
        timer.schedule(this::tryOnce, pauseMs, TimeUnit.MILLISECONDS);
        return true;
      } catch (RejectedExecutionException closed) {
        return false;
      }
    }

    /** Hands on an answer; a refusal only where another try does not help. */
    private final class Answer extends Listener<A> {
      private Metadata received = new Metadata();
      private A message;

      @Override
      public void onHeaders(Metadata headers) {
        received = headers;
      }

      @Override
      public void onMessage(A message) {
        this.message = message;
      }

      @Override
      public void onClose(Status status, Metadata trailers) {
        boolean late = options.getDeadline() != null && options.getDeadline().isExpired();
        if (!status.isOk() && !late) {
          Refused refused = Refused.of(status, trailers);
          long pauseMs = Patience.mayHelp(refused) ? waiting.pauseMs(refused.retryAfter()) : -1;
          synchronized (Repeated.this) {
            if (pauseMs >= 0 && !cancelled && later(pauseMs)) {
              return;
            }
          }
        }
        listener.onHeaders(received);
        if (message != null) {
          listener.onMessage(message);
        }
        listener.onClose(status, trailers);
      }
    }
  }

  /** The request with a request_id, its own or one made up here; each item of a batch gets one too. */
  static Message withKeys(Message request) {
    Message.Builder made = request.toBuilder();
    giveKey(made);
    FieldDescriptor items = made.getDescriptorForType().findFieldByName("requests");
    if (items != null && items.isRepeated() && items.getJavaType() == FieldDescriptor.JavaType.MESSAGE) {
      for (int at = 0; at < made.getRepeatedFieldCount(items); at++) {
        Message.Builder item = ((Message) made.getRepeatedField(items, at)).toBuilder();
        giveKey(item);
        made.setRepeatedField(items, at, item.build());
      }
    }
    return made.build();
  }

  private static void giveKey(Message.Builder message) {
    FieldDescriptor key = message.getDescriptorForType().findFieldByName("request_id");
    if (key != null && ((String) message.getField(key)).isEmpty()) {
      message.setField(key, UUID.randomUUID().toString());
    }
  }
}
