package connectx

import (
	"context"
	"net/http"

	"connectrpc.com/connect"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// unaryServer is one unary call on a handler.
type unaryServer struct {
	rpc
	ctx  context.Context //nolint:containedctx // connect's, which knows the call info
	next connect.UnaryFunc
	req  connect.AnyRequest
	res  connect.AnyResponse
}

func newUnaryServer(ctx context.Context, method core.Method, req connect.AnyRequest, next connect.UnaryFunc) *unaryServer {
	s := &unaryServer{ctx: ctx, next: next, req: req}
	s.Init(s, method, core.SideServer, core.ShapeUnary, core.Protocol(req.Peer().Protocol), req.Any())
	return s
}

func (s *unaryServer) run(ctx context.Context, chain core.Handler) (connect.AnyResponse, error) {
	err := chain(ctx, &s.Call)
	if err == nil {
		_, err = s.Reply()
	}
	if err != nil {
		return nil, serverEdge(err, s.trailer)
	}
	if msg := s.Response(); s.res == nil || s.res.Any() != msg {
		s.res = &response{emptyResponse(), msg} // an interceptor's
	}
	return s.res, nil
}

// Invoke implements [core.Transport]: it runs the handler.
func (s *unaryServer) Invoke(ctx context.Context, _ *core.Call) error {
	res, err := s.next(ctx, s.req)
	if res == nil {
		return err
	}
	if len(res.Header()) > 0 || len(res.Trailer()) > 0 {
		// Into the call's state, where interceptors see it and where it outlives an error.
		merge(s.header(), res.Header())
		merge(s.trailer(), res.Trailer())
		res = &response{emptyResponse(), res.Any()}
	}
	if err != nil {
		return err
	}
	s.res = res
	return s.SetResponse(res.Any())
}

func merge(into, from http.Header) {
	for key, values := range from {
		into[key] = append(into[key], values...)
	}
}

// header and trailer are connect's state of the response, which it sends whatever the outcome.
func (s *unaryServer) header() http.Header {
	if info, ok := connect.CallInfoForHandlerContext(s.ctx); ok {
		return info.ResponseHeader()
	}
	return http.Header{} // somebody calls the interceptor by hand
}

func (s *unaryServer) trailer() http.Header {
	if info, ok := connect.CallInfoForHandlerContext(s.ctx); ok {
		return info.ResponseTrailer()
	}
	return http.Header{}
}

// Metadata implements [core.Transport].
func (s *unaryServer) Metadata(kind core.MetadataKind) core.RawMetadata {
	switch kind {
	case core.KindRequestHeader:
		return core.RawMetadata{Map: s.req.Header(), HTTP: true, Agent: true}
	case core.KindResponseHeader:
		return raw(s.header())
	case core.KindResponseTrailer:
	}
	return raw(s.trailer())
}

// Peer implements [core.Transport].
func (s *unaryServer) Peer() core.Peer { return core.Peer{Addr: s.req.Peer().Addr} }

// Describe implements [core.Transport].
func (s *unaryServer) Describe() core.Description { return describe(s.req.Spec()) }

// HTTPMethod implements [core.Transport].
func (s *unaryServer) HTTPMethod() string { return s.req.HTTPMethod() }

// response is a response that did not come from the handler as it is: connect's
// servers take any that embeds their own kind.
type response struct {
	connect.AnyResponse
	msg any
}

func (r *response) Any() any { return r.msg }

func emptyResponse() connect.AnyResponse { return connect.NewResponse(&struct{}{}) }

// unaryClient is one unary call of a client, or one attempt of it.
type unaryClient struct {
	rpc
	next connect.UnaryFunc
	req  connect.AnyRequest
	res  connect.AnyResponse
	meta http.Header // of a failure: header and trailer in one
}

func newUnaryClient(method core.Method, req connect.AnyRequest, next connect.UnaryFunc) *unaryClient {
	c := &unaryClient{next: next, req: req}
	c.Init(c, method, core.SideClient, core.ShapeUnary, core.Protocol(req.Peer().Protocol), req.Any())
	return c
}

func (c *unaryClient) run(ctx context.Context, chain core.Handler) (connect.AnyResponse, error) {
	if err := chain(ctx, &c.Call); err != nil {
		return nil, clientEdge(err, &c.Call)
	}
	msg, err := c.Reply()
	if err != nil {
		return nil, clientEdge(err, &c.Call)
	}
	if native := c.Outcome().Transport().(*unaryClient).res; native != nil && native.Any() == msg { //nolint:forcetypeassert // ours
		return native, nil
	}
	res, err := newResponse(msg)
	if err != nil {
		return nil, clientEdge(err, &c.Call)
	}
	return res, nil
}

// Invoke implements [core.Transport]: it makes the call.
func (c *unaryClient) Invoke(ctx context.Context, _ *core.Call) error {
	if c.RequestHeader().Written() {
		// The application may use its request, and the header in it, again.
		if _, ok := c.req.(*ownRequest); !ok {
			c.req = &ownRequest{of: c.req, header: c.RequestHeader().Raw().Map}
		}
	}
	if own, ok := c.req.(*ownRequest); ok {
		own.msg = c.Outgoing()
	}
	res, err := c.next(ctx, c.req)
	if err == nil && res == nil {
		err = connect.NewError(connect.CodeInternal, text("an interceptor inside returned neither a response nor an error"))
	}
	defer c.Received()
	if err != nil {
		if native, ok := errors.AsType[*connect.Error](err); ok && native != nil {
			c.meta = native.Meta()
		}
		return inTime(ctx, err)
	}
	learn(res)
	c.res = res
	return c.SetResponse(res.Any())
}

// Metadata implements [core.Transport].
func (c *unaryClient) Metadata(kind core.MetadataKind) core.RawMetadata {
	switch {
	case kind == core.KindRequestHeader:
		_, own := c.req.(*ownRequest)
		return core.RawMetadata{Map: c.req.Header(), HTTP: true, Shared: !own}
	case c.res == nil && kind == core.KindResponseTrailer:
		return raw(c.meta)
	case c.res == nil:
		return core.RawMetadata{}
	case kind == core.KindResponseHeader:
		return raw(c.res.Header())
	}
	return raw(c.res.Trailer())
}

// Peer implements [core.Transport].
func (c *unaryClient) Peer() core.Peer { return core.Peer{Addr: c.req.Peer().Addr} }

// Describe implements [core.Transport].
func (c *unaryClient) Describe() core.Description { return describe(c.req.Spec()) }

// HTTPMethod implements [core.Transport].
func (c *unaryClient) HTTPMethod() string { return c.req.HTTPMethod() }

// NewAttempt implements [core.Transport].
func (c *unaryClient) NewAttempt(call *core.Call) *core.Call {
	attempt := &struct { // one allocation
		unaryClient
		own ownRequest
	}{unaryClient{next: c.next}, ownRequest{of: c.req, header: attemptHeader(c.RequestHeader().Raw().Map)}}
	attempt.req = &attempt.own
	attempt.Init(&attempt.unaryClient, call.Method(), core.SideClient, core.ShapeUnary, call.Protocol(), c.req.Any())
	return &attempt.Call
}

// ownRequest is a request with a header of its own, into which connect writes. What connect notes on
// a request is its own too, and goes into the embedded one.
type ownRequest struct {
	connect.Request[struct{}]
	of     connect.AnyRequest
	msg    any
	header http.Header
}

func (r *ownRequest) Any() any {
	if r.msg == nil {
		return r.of.Any()
	}
	return r.msg
}
func (r *ownRequest) Spec() connect.Spec  { return r.of.Spec() }
func (r *ownRequest) Peer() connect.Peer  { return r.of.Peer() }
func (r *ownRequest) Header() http.Header { return r.header }
