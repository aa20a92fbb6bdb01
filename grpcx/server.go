package grpcx

import (
	"context"
	"net/http"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/internal/origin"
)

// server is what calls of both kinds share on a server. Response metadata is
// state of the call: what handlers give to grpc.SetHeader and its like lands there too, and all of it is
// flushed at the latest possible moment.
type server struct {
	rpc
	handed  handlerContext
	flushed sync.Once
	origin  origin.Call // nil unless the call came through an HTTP handler like that of grpcx/web
}

func (s *server) init(ctx context.Context, t core.Transport, method core.Method, shape core.Shape, req any) {
	s.ctx = ctx
	s.handed.server = s
	protocol := core.ProtocolGRPC
	if s.origin = origin.FromContext(ctx); s.origin != nil {
		protocol = s.origin.Protocol()
		received := 0
		if shape == core.ShapeUnary {
			received = 1
		}
		s.origin.Entered(received)
	}
	s.Init(t, method, core.SideServer, shape, protocol, req)
}

// HTTPMethod implements [core.Transport].
func (s *server) HTTPMethod() string {
	if s.origin != nil {
		return s.origin.HTTPMethod()
	}
	return s.rpc.HTTPMethod()
}

// Metadata implements [core.Transport].
func (s *server) Metadata(kind core.MetadataKind) core.RawMetadata {
	if kind != core.KindRequestHeader {
		return core.RawMetadata{}
	}
	md, _ := metadata.FromIncomingContext(s.ctx) // a copy
	return core.RawMetadata{Map: md, Agent: true}
}

// Peer implements [core.Transport].
func (s *server) Peer() core.Peer {
	p, _ := peer.FromContext(s.ctx)
	return peerOf(p)
}

// native is grpc's own stream. It is nil when somebody calls the interceptor by hand.
func (s *server) native() grpc.ServerTransportStream {
	return grpc.ServerTransportStreamFromContext(s.ctx)
}

// flushHeader hands the header to grpc, once; nobody can write it after.
func (s *server) flushHeader(set func(metadata.MD) error) (err error) {
	s.flushed.Do(func() {
		header := s.ResponseHeader()
		header.Seal("it was sent")
		if md := header.Raw().Map; len(md) > 0 {
			err = set(md)
		}
	})
	return err
}

// add is what grpc.SetHeader and its like do. As with grpc, what belongs to the protocol is left out silently.
func add(to *core.Metadata, md metadata.MD) error {
	for key, values := range md {
		for _, value := range values {
			if err := to.Add(key, value); err != nil && !core.IsReserved(key) {
				return err
			}
		}
	}
	return nil
}

// handlerContext is the context that the handler gets. It is part of the server's call and not made by
// context.WithValue, which would be two allocations for each RPC.
type handlerContext struct {
	context.Context //nolint:containedctx // the chain's
	server          *server
}

// The keys under which grpc keeps what a handler's context holds, as its own functions ask for them.
var (
	streamKey   = keyOf(func(ctx context.Context) { grpc.ServerTransportStreamFromContext(ctx) })
	metadataKey = keyOf(func(ctx context.Context) { metadata.FromIncomingContext(ctx) })
)

// probe notes the key that is asked for.
type probe struct {
	context.Context //nolint:containedctx // never used
	key             any
}

func (p *probe) Value(key any) any {
	p.key = key
	return nil
}

func keyOf(ask func(context.Context)) any {
	p := &probe{Context: context.Background()}
	ask(p)
	return p.key
}

type nativeKey struct{}

// Value implements [context.Context].
func (c *handlerContext) Value(key any) any {
	switch key {
	case streamKey:
		return (*transportStream)(c.server)
	case metadataKey:
		// What interceptors wrote is what the handler reads.
		if header := c.server.RequestHeader(); header.Touched() {
			return metadata.MD(header.Raw().Map)
		}
	case nativeKey{}:
		return c.server.ctx
	}
	return c.Context.Value(key)
}

// NativeContext returns ctx with grpc's own transport stream in it, for the few functions of
// grpc that want no other: grpc.SetSendCompressor and grpc.ClientSupportedCompressors. With such a context
// grpc.SetHeader and its like go past the interceptors. It returns ctx itself outside of a handler behind grpcx.
func NativeContext(ctx context.Context) context.Context {
	native, ok := ctx.Value(nativeKey{}).(context.Context)
	if !ok {
		return ctx
	}
	return grpc.NewContextWithServerTransportStream(ctx, grpc.ServerTransportStreamFromContext(native))
}

// transportStream is what grpc.SetHeader and its like find in a handler's context.
type transportStream server

// Method implements [grpc.ServerTransportStream].
func (t *transportStream) Method() string { return (*server)(t).Method().String() }

// SetHeader implements [grpc.ServerTransportStream].
func (t *transportStream) SetHeader(md metadata.MD) error {
	return add((*server)(t).ResponseHeader(), md)
}

// SendHeader implements [grpc.ServerTransportStream].
func (t *transportStream) SendHeader(md metadata.MD) error {
	s := (*server)(t)
	if err := add(s.ResponseHeader(), md); err != nil {
		return err
	}
	native := s.native()
	if native == nil {
		return nil
	}
	return s.sendHeader(native.SendHeader)
}

// sendHeader sends the header now, even if it is empty.
func (s *server) sendHeader(send func(metadata.MD) error) error {
	var md metadata.MD
	if err := s.flushHeader(func(all metadata.MD) error { md = all; return nil }); err != nil {
		return err
	}
	return send(md)
}

// SetTrailer implements [grpc.ServerTransportStream].
func (t *transportStream) SetTrailer(md metadata.MD) error {
	return add((*server)(t).ResponseTrailer(), md)
}

// aborted ends a call that panics with http.ErrAbortHandler, which everybody else lets pass, since
// net/http ends such a call quietly. grpc would end the process.
func aborted(err *error) {
	switch value := recover(); value {
	case nil: // also runtime.Goexit
	case http.ErrAbortHandler:
		*err = status.Error(codes.Internal, core.PublicMessage(core.CodeInternal))
	default:
		panic(value)
	}
}

// unaryServer is one unary call on a server.
type unaryServer struct {
	server
	handler grpc.UnaryHandler
}

func (s *unaryServer) run(ctx context.Context, chain core.Handler) (msg any, err error) {
	defer aborted(&err)
	err = chain(ctx, &s.Call)
	if err == nil {
		msg, err = s.Reply()
	}
	if err != nil {
		msg, err = nil, serverEdge(err, s.ResponseTrailer())
	}
	if native := s.native(); native != nil {
		_ = s.flushHeader(native.SetHeader) // it fails when the client has gone
		if md := s.ResponseTrailer().Raw().Map; len(md) > 0 {
			_ = native.SetTrailer(md)
		}
	}
	return msg, err
}

// Invoke implements [core.Transport]: it runs the handler.
func (s *unaryServer) Invoke(ctx context.Context, call *core.Call) error {
	s.handed.Context = ctx
	res, err := s.handler(&s.handed, call.Request())
	if err != nil {
		return err
	}
	return s.SetResponse(res)
}

// streamServer is one stream on a server.
type streamServer struct {
	server
	stream  serverStream
	srv     any
	handler grpc.StreamHandler
}

func (s *streamServer) run(chain core.Handler) (err error) {
	defer aborted(&err)
	native := s.stream.ServerStream
	err = chain(s.ctx, &s.Call)
	if err == nil && s.Shape() == core.ShapeClientStream {
		var msg any
		if msg, err = s.Reply(); err == nil {
			_ = s.flushHeader(native.SetHeader)
			err = native.SendMsg(msg)
		}
	}
	if err != nil {
		err = serverEdge(err, s.ResponseTrailer())
	}
	_ = s.flushHeader(native.SetHeader)
	if md := s.ResponseTrailer().Raw().Map; len(md) > 0 {
		native.SetTrailer(md)
	}
	return err
}

// Invoke implements [core.Transport]: it runs the handler.
func (s *streamServer) Invoke(ctx context.Context, _ *core.Call) error {
	s.handed.Context = ctx
	defer s.stream.waiter.Close()
	return s.handler(s.srv, &s.stream)
}
