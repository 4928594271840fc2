package florin.client;

import com.google.rpc.Status;
import florin.common.v1.Money;
import io.grpc.Metadata;
import java.util.Optional;

/** The funds available do not cover the amount. */
public final class InsufficientFunds extends Refused {
  private static final long serialVersionUID = 1;

  InsufficientFunds(io.grpc.Status status, Metadata trailers, Status details) {
    super(status, trailers, details);
  }

  /** What could be paid; empty for callers who may not know it. */
  public Optional<Money> available() {
    return figures().map(florin.common.v1.InsufficientFunds::getAvailable);
  }

  /** What was asked for. */
  public Optional<Money> requested() {
    return figures().map(florin.common.v1.InsufficientFunds::getRequested);
  }

  /** What holds keep back. */
  public Optional<Money> held() {
    return figures().map(florin.common.v1.InsufficientFunds::getHeld);
  }

  private Optional<florin.common.v1.InsufficientFunds> figures() {
    return detail(florin.common.v1.InsufficientFunds.class);
  }
}
