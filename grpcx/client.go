package grpcx

import (
	"context"
	"io"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/internal/message"
)

// client is what calls of both kinds share on a client.
type client struct {
	rpc
	header metadata.MD // of an attempt's request
}

func (c *client) init(ctx context.Context, t core.Transport, method core.Method, shape core.Shape, req any) {
	c.ctx = ctx
	c.Init(t, method, core.SideClient, shape, core.ProtocolGRPC, req)
}

// Normalize implements [core.Transport]: an error that was received has the metadata of the response, as
// connect's have.
func (c *client) Normalize(err error) error {
	return errors.Normalize(err, func(native, whole error) *errors.Error {
		return convertWith(native, whole, c.ResponseMetadata)
	})
}

// requestHeader is where the metadata of the request starts from.
func (c *client) requestHeader() core.RawMetadata {
	if c.header == nil {
		c.header, _ = metadata.FromOutgoingContext(c.ctx) // a copy
	}
	return raw(c.header)
}

// attemptOf makes c an attempt of call, which is that of from, and perhaps an attempt itself whose header nobody has touched.
func (c *client) attemptOf(call *core.Call, from *client) {
	if from.header != nil || call.RequestHeader().Touched() {
		c.header = metadata.MD(call.RequestHeader().Raw().Map).Copy()
		if c.header == nil {
			c.header = metadata.MD{}
		}
	}
}

// outgoing gives ctx the metadata of the request, if anyone has touched it.
func (c *client) outgoing(ctx context.Context) context.Context {
	if !c.RequestHeader().Touched() && c.header == nil {
		return ctx
	}
	return metadata.NewOutgoingContext(ctx, c.RequestHeader().Raw().Map)
}

// unaryClient is one unary call of a client, or one attempt of it.
type unaryClient struct {
	client
	reply   any
	cc      *grpc.ClientConn
	invoker grpc.UnaryInvoker
	opts    []grpc.CallOption
	space   [8]grpc.CallOption // for opts and ours, without an allocation
	retried bool               // there are attempts of it

	responseHeader, responseTrailer metadata.MD
	peer                            peer.Peer
}

func (c *unaryClient) run(ctx context.Context, chain core.Handler) error {
	err := chain(ctx, &c.Call)
	if err == nil {
		var msg any
		if msg, err = c.Reply(); err == nil {
			err = message.Copy(c.reply, msg)
		}
	}
	if err != nil {
		err = clientEdge(err, &c.Call)
	}
	if c.retried {
		c.Outcome().Transport().(*unaryClient).fill(c.opts, err) //nolint:forcetypeassert // ours
	}
	return err
}

// Invoke implements [core.Transport]: it makes the call.
func (c *unaryClient) Invoke(ctx context.Context, call *core.Call) error {
	opts := append(append(c.space[:0], c.opts...),
		grpc.Header(&c.responseHeader), grpc.Trailer(&c.responseTrailer), grpc.Peer(&c.peer))
	defer c.Received()
	err := c.invoker(c.outgoing(ctx), call.Method().String(), call.Outgoing(), c.reply, c.cc, opts...)
	if err == io.EOF { //nolint:errorlint // the fault of grpc that nativeStream.receive tells of; nobody is left to ask
		return status.Error(codes.Unavailable, "the server refused the stream")
	}
	if err != nil {
		return err
	}
	return c.SetResponse(c.reply)
}

// Metadata implements [core.Transport].
func (c *unaryClient) Metadata(kind core.MetadataKind) core.RawMetadata {
	switch kind {
	case core.KindRequestHeader:
		return c.requestHeader()
	case core.KindResponseHeader:
		return raw(c.responseHeader)
	case core.KindResponseTrailer:
	}
	return raw(c.responseTrailer)
}

// Peer implements [core.Transport].
func (c *unaryClient) Peer() core.Peer { return peerOf(&c.peer) }

// NewAttempt implements [core.Transport].
func (c *unaryClient) NewAttempt(call *core.Call) *core.Call {
	// The application's own options for what comes back are filled from the attempt that counts, and what it wants
	// done at the end is done at the end of the call.
	c.retried = true
	own := func(opt grpc.CallOption) bool {
		switch opt.(type) {
		case grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption, grpc.OnFinishCallOption:
			return true
		}
		return false
	}
	opts := c.opts
	if slices.ContainsFunc(opts, own) {
		opts = slices.DeleteFunc(slices.Clone(opts), own)
	}
	attempt := &unaryClient{reply: message.New(c.reply), cc: c.cc, invoker: c.invoker, opts: opts}
	attempt.init(c.ctx, attempt, call.Method(), core.ShapeUnary, nil)
	attempt.attemptOf(call, &c.client)
	return &attempt.Call
}

// fill gives the application what it asked for by options, at the end of a call that had attempts.
func (c *unaryClient) fill(opts []grpc.CallOption, err error) {
	for _, opt := range opts {
		switch opt := opt.(type) {
		case grpc.HeaderCallOption:
			*opt.HeaderAddr = c.responseHeader
		case grpc.TrailerCallOption:
			*opt.TrailerAddr = c.responseTrailer
		case grpc.PeerCallOption:
			*opt.PeerAddr = c.peer
		case grpc.OnFinishCallOption:
			opt.OnFinish(err)
		}
	}
}
