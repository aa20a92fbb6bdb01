package connectx

import (
	"context"
	"net/http"

	"connectrpc.com/connect"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// streamServer is one stream on a handler.
type streamServer struct {
	rpc
	conn handlerConn
	next connect.StreamingHandlerFunc
}

func newStreamServer(method core.Method, conn connect.StreamingHandlerConn, next connect.StreamingHandlerFunc) *streamServer {
	s := &streamServer{next: next}
	s.conn.StreamingHandlerConn, s.conn.call = conn, &s.Call
	s.Init(s, method, core.SideServer, shapeOf(conn.Spec()), core.Protocol(conn.Peer().Protocol), nil)
	return s
}

func (s *streamServer) run(ctx context.Context, chain core.Handler) error {
	s.conn.ctx = ctx
	native := s.conn.StreamingHandlerConn
	err := chain(ctx, &s.Call)
	if err == nil && s.Shape() == core.ShapeClientStream {
		var msg any
		if msg, err = s.Reply(); err == nil {
			return native.Send(msg)
		}
	}
	if err != nil {
		return serverEdge(err, native.ResponseTrailer)
	}
	return nil
}

// Invoke implements [core.Transport]: it runs the handler.
func (s *streamServer) Invoke(ctx context.Context, _ *core.Call) error {
	s.conn.handed = ctx
	defer s.conn.waiter.Close()
	return s.next(ctx, &s.conn)
}

// Metadata implements [core.Transport].
func (s *streamServer) Metadata(kind core.MetadataKind) core.RawMetadata {
	native := s.conn.StreamingHandlerConn
	switch kind {
	case core.KindRequestHeader:
		return core.RawMetadata{Map: native.RequestHeader(), HTTP: true, Agent: true}
	case core.KindResponseHeader:
		return raw(native.ResponseHeader())
	case core.KindResponseTrailer:
	}
	return raw(native.ResponseTrailer())
}

// Peer implements [core.Transport].
func (s *streamServer) Peer() core.Peer { return core.Peer{Addr: s.conn.Peer().Addr} }

// Describe implements [core.Transport].
func (s *streamServer) Describe() core.Description { return describe(s.conn.Spec()) }

// HTTPMethod implements [core.Transport].
func (s *streamServer) HTTPMethod() string { return http.MethodPost }

// handlerConn is what the handler gets: connect's stream, watched by the hooks.
type handlerConn struct {
	connect.StreamingHandlerConn
	call   *core.Call
	ctx    context.Context //nolint:containedctx // connect's
	handed context.Context //nolint:containedctx // the chain's, which the handler has
	waiter core.RequestWaiter
}

// Receive implements [connect.StreamingHandlerConn].
func (c *handlerConn) Receive(msg any) error {
	if err := c.call.Stuck(); err != nil {
		return err
	}
	if err := c.waiter.Receive(c.handed, c.ctx, c, msg); err != nil {
		if err == c.handed.Err() { //nolint:errorlint // the waiter's very own: connect's have codes
			return connect.NewError(connect.Code(core.CodeOf(err)), err)
		}
		return err
	}
	return c.call.RequestMessage(msg)
}

// ReceiveRequest implements [core.RequestSource].
func (c *handlerConn) ReceiveRequest(msg any) error { return c.StreamingHandlerConn.Receive(msg) }

// Send implements [connect.StreamingHandlerConn]. A nil message flushes the header.
func (c *handlerConn) Send(msg any) error {
	if err := c.call.Stuck(); err != nil {
		return err
	}
	if msg != nil && !errors.Is(c.ctx.Err(), context.Canceled) { // the client has gone: it cannot be sent, so it is not a message
		if err := c.call.ResponseMessage(msg); err != nil || c.call.Shape() == core.ShapeClientStream {
			return err // the call keeps the one response until the chain agrees
		}
	}
	c.call.ResponseHeader().Seal("it was sent")
	return c.StreamingHandlerConn.Send(msg)
}
