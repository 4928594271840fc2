package client

import (
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	commonv1 "florin.example/client/florin/common/v1"
)

// Refused is Florin's "no". errors.As finds it in whatever a call returned.
type Refused struct {
	// Status is the whole status, with its details.
	Status *status.Status
	// Reason is a value of florin.common.v1.Reason without its prefix; its meaning never changes. It is empty where no
	// answer of Florin's came: what was done is not known then. Ask again with the same request_id.
	Reason string
	// Metadata are the values in the sentence, by name.
	Metadata map[string]string
}

// Error is the reason and the sentence for people.
func (refused *Refused) Error() string {
	word := refused.Reason
	if word == "" {
		word = refused.Status.Code().String()
	}
	return fmt.Sprintf("%s: %s", word, refused.Status.Message())
}

// GRPCStatus lets gRPC's own functions read the refusal.
func (refused *Refused) GRPCStatus() *status.Status { return refused.Status }

// RetryAfter is how long to wait before asking again, where the answer says so.
func (refused *Refused) RetryAfter() time.Duration {
	if info := detail[*errdetails.RetryInfo](refused); info != nil {
		return info.GetRetryDelay().AsDuration()
	}
	return 0
}

// Violations are the rules of the contract that the request breaks, all of them.
func (refused *Refused) Violations() []*errdetails.BadRequest_FieldViolation {
	return detail[*errdetails.BadRequest](refused).GetFieldViolations()
}

// Limits are the limits that a payment is above: whose, and a sentence with their use and what is left.
func (refused *Refused) Limits() []*errdetails.QuotaFailure_Violation {
	return detail[*errdetails.QuotaFailure](refused).GetViolations()
}

// InsufficientFunds says that the funds available do not cover the amount.
type InsufficientFunds struct {
	*Refused
	// Available is what could be paid; nil to callers who may not know it.
	Available *commonv1.Money
	Requested *commonv1.Money
	Held      *commonv1.Money
}

// Unwrap lets errors.As find the refusal.
func (funds *InsufficientFunds) Unwrap() error { return funds.Refused }

// IsNotFound says whether there is no such thing, or it is not the caller's.
func IsNotFound(err error) bool { return status.Code(err) == codes.NotFound }

func detail[Detail comparable](refused *Refused) Detail {
	for _, found := range refused.Status.Details() {
		if wanted, ok := found.(Detail); ok {
			return wanted
		}
	}
	var none Detail
	return none
}

// refusal makes what a call ended with an error of this package; nil and the end of a stream stay what they are.
func refusal(err error) error {
	var already *Refused
	if err == nil || errors.Is(err, io.EOF) || errors.As(err, &already) {
		return err
	}
	said, ok := status.FromError(err)
	if !ok {
		return err
	}
	refused := &Refused{Status: said}
	if info := detail[*errdetails.ErrorInfo](refused); info.GetDomain() == "florin" {
		refused.Reason, refused.Metadata = info.GetReason(), info.GetMetadata()
	}
	if refused.Reason == "INSUFFICIENT_FUNDS" {
		figures := detail[*commonv1.InsufficientFunds](refused)
		return &InsufficientFunds{refused, figures.GetAvailable(), figures.GetRequested(), figures.GetHeld()}
	}
	return refused
}
