package client

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	accountsv1 "florin.example/client/florin/accounts/v1"
	notificationsv1 "florin.example/client/florin/notifications/v1"
)

// Page is an answer of a list.
type Page interface {
	proto.Message
	GetNextPageToken() string
}

// Items are all items of a list, however many pages they come in:
//
//	client.Items(ctx, florin.Transfers.ListTransfers, request, (*transactionsv1.ListTransfersResponse).GetTransfers)
func Items[Request proto.Message, Answer Page, Item any](
	ctx context.Context,
	list func(context.Context, Request, ...grpc.CallOption) (Answer, error),
	request Request,
	items func(Answer) []Item,
) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		page := proto.Clone(request)
		token := page.ProtoReflect().Descriptor().Fields().ByName("page_token")
		for {
			answer, err := list(ctx, page.(Request))
			if err != nil {
				var none Item
				yield(none, err)
				return
			}
			for _, item := range items(answer) {
				if !yield(item, nil) {
					return
				}
			}
			if answer.GetNextPageToken() == "" {
				return
			}
			page.ProtoReflect().Set(token, protoreflect.ValueOfString(answer.GetNextPageToken()))
		}
	}
}

// WatchAccount gives an account's balance and entries as they come, until the context ends; after a break it goes on where
// it was. It begins with what comes from now on, or with the entry after `after`.
func (client *Client) WatchAccount(ctx context.Context, name string, after *int64) iter.Seq2[*accountsv1.WatchAccountResponse, error] {
	request := &accountsv1.WatchAccountRequest{Name: name, AfterSequence: after}
	open := func(ctx context.Context) (grpc.ServerStreamingClient[accountsv1.WatchAccountResponse], error) {
		return client.Balances.WatchAccount(ctx, request)
	}
	return forEver(ctx, client.patience, open, func(change *accountsv1.WatchAccountResponse) {
		request.AfterSequence = proto.Int64(change.GetSequence())
	})
}

// Events gives events as they happen, until the context ends; after a break they go on after the last one. Whoever keeps
// an event's resume token can go on another day.
func (client *Client) Events(ctx context.Context, types []string, resumeToken string) iter.Seq2[*notificationsv1.StreamEventsResponse, error] {
	request := &notificationsv1.StreamEventsRequest{EventTypes: types, ResumeToken: resumeToken}
	open := func(ctx context.Context) (grpc.ServerStreamingClient[notificationsv1.StreamEventsResponse], error) {
		return client.Notifications.StreamEvents(ctx, request)
	}
	return forEver(ctx, client.patience, open, func(answer *notificationsv1.StreamEventsResponse) {
		request.ResumeToken = answer.GetEvent().GetResumeToken()
	})
}

func forEver[Answer any](
	ctx context.Context,
	length time.Duration,
	open func(context.Context) (grpc.ServerStreamingClient[Answer], error),
	remember func(*Answer),
) iter.Seq2[*Answer, error] {
	return func(yield func(*Answer, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		waiting := newPatience(length)
		for {
			stream, err := open(ctx)
			for err == nil {
				var answer *Answer
				if answer, err = stream.Recv(); err == nil {
					remember(answer)
					waiting = newPatience(length)
					if !yield(answer, nil) {
						return
					}
				}
			}
			var refused *Refused
			if errors.Is(err, io.EOF) {
				refused = &Refused{} // it ended without one: it is opened again
			} else if !errors.As(err, &refused) || !(mayHelp(refused) || refused.Reason == "TOKEN_INVALID") {
				yield(nil, err)
				return
			}
			if !waiting.wait(ctx, refused) {
				yield(nil, err)
				return
			}
		}
	}
}
