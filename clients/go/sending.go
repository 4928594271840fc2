package client

import (
	"context"
	crypto "crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A call is sent again where the answer asks for it, or where none came. That is safe for every method of methods.txt,
// which the contracts declare idempotent: what changes something is known by its request_id.

//go:embed methods.txt
var methodsText string

// deadlines has, for each method that may be sent again, how long one try may take.
var deadlines = func() map[string]time.Duration {
	found := map[string]time.Duration{}
	for line := range strings.Lines(methodsText) {
		path, milliseconds, _ := strings.Cut(strings.TrimSpace(line), " ")
		number, err := strconv.Atoi(milliseconds)
		if err != nil {
			panic("florin: methods.txt is damaged: " + line)
		}
		found[path] = time.Duration(number) * time.Millisecond
	}
	return found
}()

var askedAgain = map[string]bool{
	"UNAVAILABLE": true, "OVERLOADED": true, "RATE_LIMITED": true, "CONTENTION": true, "CAPTURE_UNDER_WAY": true,
	"DEADLINE_TOO_SHORT": true, "DEADLINE_EXCEEDED": true,
}

// mayHelp says whether asking again may bring another answer.
func mayHelp(refused *Refused) bool {
	if refused.Reason != "" {
		return askedAgain[refused.Reason]
	}
	code := refused.Status.Code()
	return code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.Internal
}

func (caller caller) unary(ctx context.Context, method string, request, answer any, connection *grpc.ClientConn,
	invoker grpc.UnaryInvoker, options ...grpc.CallOption) error {
	deadline, again := deadlines[method]
	if message, ok := request.(proto.Message); ok && again {
		request = withKeys(message)
	}
	waiting := newPatience(caller.patience)
	for {
		err := caller.try(ctx, deadline, method, request, answer, connection, invoker, options...)
		var refused *Refused
		if err == nil || !again || !errors.As(err, &refused) || !mayHelp(refused) || !waiting.wait(ctx, refused) {
			return err
		}
	}
}

func (caller caller) try(ctx context.Context, deadline time.Duration, method string, request, answer any,
	connection *grpc.ClientConn, invoker grpc.UnaryInvoker, options ...grpc.CallOption) error {
	ctx, err := caller.known(ctx)
	if err != nil {
		return err
	}
	if deadline > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, deadline)
		defer cancel()
	}
	return refusal(invoker(ctx, method, request, answer, connection, options...))
}

// withKeys gives the request a request_id where it has none, or each item of a batch one.
func withKeys(request proto.Message) proto.Message {
	made := proto.Clone(request)
	message := made.ProtoReflect()
	giveKey(message)
	items := message.Descriptor().Fields().ByName("requests")
	if items != nil && items.IsList() && items.Message() != nil {
		list := message.Mutable(items).List()
		for at := range list.Len() {
			giveKey(list.Get(at).Message())
		}
	}
	return made
}

func giveKey(message protoreflect.Message) {
	field := message.Descriptor().Fields().ByName("request_id")
	if field != nil && message.Get(field).String() == "" {
		key := make([]byte, 16)
		_, _ = crypto.Read(key) // it never fails
		message.Set(field, protoreflect.ValueOfString(hex.EncodeToString(key)))
	}
}

// patience is how long one call may be sent again, and how long to wait before the next time.
type patience struct {
	end   time.Time
	pause time.Duration
}

func newPatience(length time.Duration) *patience {
	return &patience{time.Now().Add(length), 100 * time.Millisecond}
}

// wait waits before the next try, at random so that callers spread; it says false when the patience or the context is over.
func (patience *patience) wait(ctx context.Context, refused *Refused) bool {
	pause := max(refused.RetryAfter(), patience.pause/2+rand.N(patience.pause/2))
	patience.pause = min(patience.pause*2, 2*time.Second)
	if time.Now().Add(pause).After(patience.end) {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
		return true
	}
}
