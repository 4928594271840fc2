package florin.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.QuotaFailure;
import com.google.rpc.RetryInfo;
import com.google.rpc.Status;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** Florin said no. */
public class Refused extends StatusRuntimeException {
  private static final long serialVersionUID = 1;

  private final transient Status details;
  private final String reason;
  private final transient Map<String, String> metadata;

  Refused(io.grpc.Status status, Metadata trailers, Status details) {
    super(status, trailers);
    this.details = details;
    ErrorInfo info = find(details, ErrorInfo.class).filter(one -> one.getDomain().equals("florin")).orElse(ErrorInfo.getDefaultInstance());
    this.reason = info.getReason();
    this.metadata = info.getMetadataMap();
  }

  /** A failed call as the exception that it stands for. */
  static Refused of(io.grpc.Status status, Metadata trailers) {
    Metadata known = trailers == null ? new Metadata() : trailers;
    Status details = StatusProto.fromStatusAndTrailers(status, known);
    Refused refused = new Refused(status, known, details);
    return refused.reason.equals("INSUFFICIENT_FUNDS") ? new InsufficientFunds(status, known, details) : refused;
  }

  /**
   * A value of florin.common.v1.Reason without its prefix; its meaning never changes. It is empty where no answer of
   * Florin's came: what was done is not known then. Ask again with the same request_id.
   */
  public String reason() {
    return reason;
  }

  /** The values in the sentence, by name. */
  public Map<String, String> metadata() {
    return metadata;
  }

  @Override
  public String getMessage() {
    return reason.isEmpty() ? super.getMessage() : reason + ": " + details.getMessage();
  }

  /** The detail of a type, for example {@code QuotaFailure.class}. */
  public <T extends Message> Optional<T> detail(Class<T> type) {
    return find(details, type);
  }

  /** Every rule of the contract that the request breaks. */
  public List<BadRequest.FieldViolation> violations() {
    return detail(BadRequest.class).map(BadRequest::getFieldViolationsList).orElse(List.of());
  }

  /** The limits that a payment is above: whose, and a sentence with their use and what is left. */
  public List<QuotaFailure.Violation> limits() {
    return detail(QuotaFailure.class).map(QuotaFailure::getViolationsList).orElse(List.of());
  }

  /** How long to wait before asking again, where the answer says so. */
  public Duration retryAfter() {
    return detail(RetryInfo.class)
        .map(info -> Duration.ofSeconds(info.getRetryDelay().getSeconds(), info.getRetryDelay().getNanos()))
        .orElse(Duration.ZERO);
  }

  /** Whether there is no such thing, or it is not the caller's. */
  public boolean isNotFound() {
    return getStatus().getCode() == io.grpc.Status.Code.NOT_FOUND;
  }

  private static <T extends Message> Optional<T> find(Status status, Class<T> type) {
    for (Any packed : status.getDetailsList()) {
      if (packed.is(type)) {
        try {
          return Optional.of(packed.unpack(type));
        } catch (InvalidProtocolBufferException damaged) {
          return Optional.empty(); // the code and the sentence are left
        }
      }
    }
    return Optional.empty();
  }
}
