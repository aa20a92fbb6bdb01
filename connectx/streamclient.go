package connectx

import (
	"context"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/internal/message"
)

// streamClient is one client stream, or one attempt of it.
//
// connect opens a stream before the application has written its request header, and
// sends nothing until the first message. So the native stream is made at once, on a context that is settled
// later, and the chain starts with what the application does first: then interceptors see the header.
type streamClient struct {
	rpc
	stream *clientConn
	conn   connect.StreamingClientConn // nil until an attempt is opened
	header http.Header                 // of the request

	mu       sync.Mutex
	response http.Header // as far as it can be read without a race
	trailer  http.Header
}

// clientConn is the stream that the application gets.
type clientConn struct {
	core.ClientStream
	root  streamClient
	chain core.Handler
	next  connect.StreamingClientFunc
	spec  connect.Spec
	conn  connect.StreamingClientConn // the native stream that was made at once
	taken bool                        // it has been opened
	apart bool                        // the call's header is no longer that of conn
	ctx   lateContext
	start sync.Once
}

func newStreamClient(ctx context.Context, spec connect.Spec, next connect.StreamingClientFunc, chain core.Handler) connect.StreamingClientConn {
	method, err := core.ParseMethod(spec.Procedure)
	c := &clientConn{chain: chain, next: next, spec: spec}
	c.ctx.ctx = ctx
	c.conn = next(&c.ctx, spec)
	if err != nil {
		// connect cannot refuse to open a stream: it fails with the first use.
		c.chain = func(context.Context, *core.Call) error { return connect.NewError(connect.CodeInternal, err) }
	}
	c.root.stream, c.root.header = c, c.conn.RequestHeader()
	c.root.init(method)
	return &appConn{c}
}

func (s *streamClient) init(method core.Method) {
	s.Init(s, method, core.SideClient, shapeOf(s.stream.spec), core.Protocol(s.stream.conn.Peer().Protocol), nil)
}

// begin starts the chain.
func (c *clientConn) begin() {
	c.start.Do(func() { c.Start(c.ctx.current(), c.chain, &c.root.Call) })
}

// Open implements [core.StreamTransport].
func (s *streamClient) Open(ctx context.Context, call *core.Call) (core.Stream, error) {
	c := s.stream
	attempt := call.Transport().(*streamClient) //nolint:forcetypeassert // ours
	if !c.taken {
		c.taken = true
		attempt.conn = c.conn
		if attempt != &c.root {
			replace(c.conn.RequestHeader(), attempt.header)
		}
		if !sameDeadline(ctx, c.ctx.current()) {
			setTimeout(ctx, c.conn.RequestHeader(), call.Protocol())
		}
		c.ctx.settle(ctx)
	} else {
		attempt.conn = c.next(ctx, c.spec)
		maps.Copy(attempt.conn.RequestHeader(), attempt.header)
	}
	return &clientStream{streamClient: attempt, ctx: ctx}, nil
}

// replace makes into equal to from, except for the timeouts.
func replace(into, from http.Header) {
	maps.DeleteFunc(into, func(key string, _ []string) bool { return key != connectTimeout && key != grpcTimeout })
	maps.Copy(into, from)
}

// NewAttempt implements [core.Transport].
func (s *streamClient) NewAttempt(call *core.Call) *core.Call {
	c := s.stream
	if !c.apart {
		// An attempt may get the native stream, and with it its header.
		c.apart = true
		s.header = attemptHeader(s.header)
		s.RequestHeader().Rebind()
	}
	attempt := &streamClient{stream: c, header: attemptHeader(s.header)}
	attempt.init(call.Method())
	return &attempt.Call
}

// Edge implements [core.StreamTransport].
func (s *streamClient) Edge(err error) error { return clientEdge(err, &s.Call) }

// Copy implements [core.StreamTransport].
func (s *streamClient) Copy(dst, src any) error { return message.Copy(dst, src) }

// SingleResponse implements [core.StreamTransport]: connect asks for the EOF too.
func (s *streamClient) SingleResponse() bool { return false }

// Invoke implements [core.Transport]. It is not called on client streams.
func (s *streamClient) Invoke(context.Context, *core.Call) error { return nil }

// Metadata implements [core.Transport].
func (s *streamClient) Metadata(kind core.MetadataKind) core.RawMetadata {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch kind {
	case core.KindRequestHeader:
		return raw(s.header)
	case core.KindResponseHeader:
		return raw(s.response)
	case core.KindResponseTrailer:
	}
	return raw(s.trailer)
}

// Peer implements [core.Transport].
func (s *streamClient) Peer() core.Peer { return core.Peer{Addr: s.stream.conn.Peer().Addr} }

// Describe implements [core.Transport].
func (s *streamClient) Describe() core.Description { return describe(s.stream.spec) }

// HTTPMethod implements [core.Transport].
func (s *streamClient) HTTPMethod() string { return http.MethodPost }

// clientStream is the native stream of an attempt as core drives it.
type clientStream struct {
	*streamClient
	ctx      context.Context //nolint:containedctx // to know when metadata can be read
	sending  atomic.Bool     // the request has begun and not ended
	received int             // messages
}

// Send implements [core.Stream].
func (s *clientStream) Send(msg any) error {
	s.sending.Store(s.Shape().ClientStreams())
	return bareEOF(s.conn.Send(msg))
}

// CloseSend implements [core.Stream].
func (s *clientStream) CloseSend() error {
	s.sending.Store(false)
	return bareEOF(s.conn.CloseRequest())
}

// Receive implements [core.Stream].
func (s *clientStream) Receive(msg any) error {
	err := s.conn.Receive(msg)
	s.capture(err)
	if s.Shape() == core.ShapeClientStream {
		err = s.single(err)
	}
	return inTime(s.ctx, bareEOF(err))
}

// single demands one response of a client stream. connect does so too, but above the interceptors.
func (s *clientStream) single(err error) error {
	switch {
	case err == nil:
		if s.received++; s.received > 1 {
			return connect.NewError(connect.CodeUnimplemented, text("unary response has multiple messages"))
		}
	case isEOF(err) && s.received == 0:
		return connect.NewError(connect.CodeUnimplemented, text("unary response has zero messages"))
	}
	return err
}

// capture keeps response metadata as soon as there is any.
//
// connect-go v1.21.1 fills it in the background: who reads it after the context is done, while the
// request is still in flight, races with that. A response, an error that a server sent, or a context that
// is still alive after Receive, prove that nothing is in flight.
func (s *clientStream) capture(err error) {
	s.mu.Lock()
	known := s.response != nil
	s.mu.Unlock()
	if known && err == nil || !known && err != nil && s.ctx.Err() != nil && !connect.IsWireError(err) {
		return
	}
	header, trailer := s.conn.ResponseHeader(), http.Header(nil)
	if err != nil {
		trailer = s.conn.ResponseTrailer()
	}
	s.seen(header, trailer)
}

// seen keeps response metadata for whoever asks for it from now on.
func (s *clientStream) seen(header, trailer http.Header) {
	s.mu.Lock()
	if header.Get("Grpc-Status") != "" {
		header = http.Header{} // trailers only: it is all in the trailer
	}
	s.response, s.trailer = header, trailer
	s.mu.Unlock()
	s.Received()
}

// Header implements [core.Stream].
func (s *clientStream) Header() bool {
	header := s.conn.ResponseHeader()
	if s.ctx.Err() != nil {
		return false
	}
	if header.Get("Grpc-Status") != "" || !strings.HasPrefix(header.Get("Content-Type"), "application/") {
		return false // it is a failure, without a header of its own
	}
	s.seen(header, nil)
	return true
}

// Close implements [core.Stream].
func (s *clientStream) Close() {
	_ = s.conn.CloseResponse()
	if !s.sending.Load() {
		return
	}
	// net/http waits for the rest of the request, over HTTP/1.1 for ever, and nobody closes a response that
	// comes together with the cancellation. To end the request at once would be worse: it could reach the
	// server as the proper end of an upload that was canceled. Once net/http has noticed the cancellation it reaches nobody.
	time.AfterFunc(time.Second, func() {
		_ = s.conn.CloseResponse()
		_ = s.conn.CloseRequest()
	})
}

func bareEOF(err error) error {
	if err != nil && isEOF(err) {
		return io.EOF
	}
	return err
}

// appConn is the application's side: it starts the chain and speaks connect's EOF.
type appConn struct{ c *clientConn }

var _ connect.StreamingClientConn = (*appConn)(nil)

// Spec implements [connect.StreamingClientConn].
func (a *appConn) Spec() connect.Spec { return a.c.spec }

// Peer implements [connect.StreamingClientConn].
func (a *appConn) Peer() connect.Peer { return a.c.conn.Peer() }

// RequestHeader implements [connect.StreamingClientConn].
func (a *appConn) RequestHeader() http.Header { return a.c.conn.RequestHeader() }

// Send implements [connect.StreamingClientConn].
func (a *appConn) Send(msg any) error {
	a.c.begin()
	return dressedEOF(a.c.Send(msg))
}

// CloseRequest implements [connect.StreamingClientConn].
func (a *appConn) CloseRequest() error {
	a.c.begin()
	return dressedEOF(a.c.CloseSend())
}

// Receive implements [connect.StreamingClientConn].
func (a *appConn) Receive(msg any) error {
	a.c.begin()
	return dressedEOF(a.c.Receive(msg))
}

// ResponseHeader implements [connect.StreamingClientConn].
func (a *appConn) ResponseHeader() http.Header {
	a.c.begin()
	_ = a.c.Header() // an error comes with Receive
	return a.captured(core.KindResponseHeader)
}

// ResponseTrailer implements [connect.StreamingClientConn].
func (a *appConn) ResponseTrailer() http.Header { return a.captured(core.KindResponseTrailer) }

func (a *appConn) captured(kind core.MetadataKind) http.Header {
	if header := a.c.root.Outcome().Transport().Metadata(kind).Map; header != nil {
		return header
	}
	return http.Header{}
}

// CloseResponse implements [connect.StreamingClientConn].
func (a *appConn) CloseResponse() error {
	closed := false
	a.c.start.Do(func() { closed = true })
	if closed {
		return nil // nothing was sent: there is no call
	}
	return a.c.Close()
}

func dressedEOF(err error) error {
	if err == io.EOF { //nolint:errorlint // core's own
		return eof()
	}
	return err
}

// lateContext is the context of a native stream that is made before its chain
// runs: the application's at first, the innermost interceptor's from settle on.
type lateContext struct {
	mu      sync.Mutex
	ctx     context.Context //nolint:containedctx // that is what it is
	settled bool
	done    chan struct{} // if somebody asked before it was settled
	stop    func() bool
}

// settle gives the context that the innermost next got.
func (l *lateContext) settle(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ctx, l.settled = ctx, true
	if l.done != nil && l.stop() {
		l.watch()
	}
}

// watch closes done with the context.
func (l *lateContext) watch() {
	l.stop = context.AfterFunc(l.ctx, func() { close(l.done) })
}

func (l *lateContext) current() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ctx
}

// Done implements [context.Context].
func (l *lateContext) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil && !l.settled {
		l.done = make(chan struct{})
		l.watch()
	}
	if l.done != nil {
		return l.done
	}
	return l.ctx.Done()
}

// Err implements [context.Context].
func (l *lateContext) Err() error { return l.current().Err() }

// Deadline implements [context.Context].
func (l *lateContext) Deadline() (time.Time, bool) { return l.current().Deadline() }

// Value implements [context.Context].
func (l *lateContext) Value(key any) any { return l.current().Value(key) }
