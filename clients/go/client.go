// Package client is Florin's client: the generated stubs, with what every caller needs around them.
//
// The stubs are in florin.example/client/florin/…; Client has one for each public service.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
)

// Options say who calls, and what an edge's certificate is checked with.
type Options struct {
	// Token gives a token whenever it is asked, before every try: tokens end.
	Token func(context.Context) (string, error)
	// CAFile is the certificate authority of the edge; the machine's own if empty.
	CAFile string
	// Patience is how long a call that got no answer is sent again; 30 seconds if zero.
	Patience time.Duration
}

// StaticToken gives the same token always.
func StaticToken(token string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return token, nil }
}

// Client is a connection to Florin's edge. It may be used by many goroutines.
type Client struct {
	Services
	connection *grpc.ClientConn
	patience   time.Duration
}

// New makes a client for an edge, host and port. It does not wait for the connection.
func New(target string, options Options) (*Client, error) {
	if options.Token == nil {
		return nil, errors.New("florin: a client needs a token")
	}
	if options.Patience == 0 {
		options.Patience = 30 * time.Second
	}
	configuration := &tls.Config{MinVersion: tls.VersionTLS12}
	if options.CAFile != "" {
		pem, err := os.ReadFile(options.CAFile)
		if err != nil {
			return nil, fmt.Errorf("florin: %w", err)
		}
		configuration.RootCAs = x509.NewCertPool()
		if !configuration.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("florin: %s holds no certificate", options.CAFile)
		}
	}
	caller := caller{token: options.Token, patience: options.Patience}
	connection, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(credentials.NewTLS(configuration)),
		grpc.WithUnaryInterceptor(caller.unary),
		grpc.WithStreamInterceptor(caller.stream),
		grpc.WithDisableRetry(), // calls are sent again here, where it is known which may be
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("florin: %w", err)
	}
	return &Client{newServices(connection), connection, options.Patience}, nil
}

// Close ends the connection, and the calls on it.
func (client *Client) Close() error { return client.connection.Close() }

type caller struct {
	token    func(context.Context) (string, error)
	patience time.Duration
}

func (caller caller) known(ctx context.Context) (context.Context, error) {
	token, err := caller.token(ctx)
	if err != nil {
		return nil, fmt.Errorf("florin: no token: %w", err)
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), nil
}

// stream gives a stream the token, and makes the refusal that it ends with an error of this package.
func (caller caller) stream(ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn, method string,
	streamer grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx, err := caller.known(ctx)
	if err != nil {
		return nil, err
	}
	opened, err := streamer(ctx, description, connection, method, options...)
	if err != nil {
		return nil, refusal(err)
	}
	return &stream{opened}, nil
}

type stream struct{ grpc.ClientStream }

func (stream *stream) RecvMsg(message any) error {
	return refusal(stream.ClientStream.RecvMsg(message))
}
