package core

import (
	"context"
	"crypto/tls"
	"reflect"
	"sync"
	"sync/atomic"
)

// Call is one RPC as its interceptors see it: what it is, its metadata, its
// messages, and its attempts. A Call belongs to the goroutine that runs the chain;
// what may be used beside it says so. A Call must not be kept after the RPC.
type Call struct {
	transport   Transport
	method      Method
	side        Side
	shape       Shape
	protocol    Protocol
	level       atomic.Int32 // the links of the chain that were entered with this call
	request     any
	response    any
	unmet       bool        // response was set and has not met the hooks
	failed      atomic.Bool // the last one to return was an error: there is no response
	header      Metadata
	respHeader  Metadata
	respTrailer Metadata
	armed       atomic.Bool // next has reached the RPC
	stream      *ClientStream
	attempt     attempt // with a parent if the call is one

	// These may meet a next that an interceptor has given up on, in a goroutine of its own.
	hooks    atomic.Pointer[hooks]
	attempts attempts
	mu       sync.Mutex // for response and unmet
}

// Side is the side of the wire on which an interceptor runs.
type Side uint8

// The sides.
const (
	SideServer Side = iota + 1
	SideClient
)

// String returns "server" or "client".
func (s Side) String() string {
	switch s {
	case SideServer:
		return "server"
	case SideClient:
		return "client"
	}
	return "no side"
}

// MarshalText implements [encoding.TextMarshaler], for logs, with the name.
func (s Side) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Shape says which sides of an RPC send streams.
type Shape uint8

// The shapes.
const (
	ShapeUnary Shape = iota + 1
	ShapeClientStream
	ShapeServerStream
	ShapeBidiStream
)

// ShapeOf returns the shape for the two flags of a method descriptor.
func ShapeOf(clientStreams, serverStreams bool) Shape {
	switch {
	case clientStreams && serverStreams:
		return ShapeBidiStream
	case serverStreams:
		return ShapeServerStream
	case clientStreams:
		return ShapeClientStream
	}
	return ShapeUnary
}

// ClientStreams reports whether the client sends a stream.
func (s Shape) ClientStreams() bool { return s == ShapeClientStream || s == ShapeBidiStream }

// ServerStreams reports whether the server sends a stream.
func (s Shape) ServerStreams() bool { return s == ShapeServerStream || s == ShapeBidiStream }

// String returns "unary", "client_stream", "server_stream" or "bidi_stream".
func (s Shape) String() string {
	switch s {
	case ShapeUnary:
		return "unary"
	case ShapeClientStream:
		return "client_stream"
	case ShapeServerStream:
		return "server_stream"
	case ShapeBidiStream:
		return "bidi_stream"
	}
	return "no shape"
}

// MarshalText implements [encoding.TextMarshaler], for logs, with the name.
func (s Shape) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Protocol is the wire protocol of a call, in the names that connect-go and
// OpenTelemetry share.
type Protocol string

// The protocols.
const (
	ProtocolGRPC    Protocol = "grpc"
	ProtocolGRPCWeb Protocol = "grpcweb"
	ProtocolConnect Protocol = "connect"
)

// Idempotency is what a method's descriptor says about repeating it
// (google.protobuf.MethodOptions.IdempotencyLevel).
type Idempotency uint8

// The idempotency levels.
const (
	IdempotencyUnknown Idempotency = iota
	// IdempotencyNoSideEffects: implies idempotent.
	IdempotencyNoSideEffects
	IdempotencyIdempotent
)

// String returns the name in the descriptor, in lower case.
func (i Idempotency) String() string {
	switch i {
	case IdempotencyNoSideEffects:
		return "no_side_effects"
	case IdempotencyIdempotent:
		return "idempotent"
	case IdempotencyUnknown:
	}
	return "unknown"
}

// Peer is the other end of a call.
type Peer struct {
	// Addr is host and port, or whatever names an address that is not TCP. On
	// grpc clients it is empty until the RPC is over.
	Addr string
	// TLS is the state of the connection, nil without TLS and where the stack does
	// not tell (connect-go).
	TLS *tls.ConnectionState
}

// Description is what the definition of a method says beyond its name.
type Description struct {
	// Schema is a protoreflect.MethodDescriptor, or nil if none is known.
	Schema any
	// Idempotency is the level that the descriptor declares.
	Idempotency Idempotency
}

// Method returns the name of the method.
func (c *Call) Method() Method { return c.method }

// Side returns the side on which this chain runs.
func (c *Call) Side() Side { return c.side }

// Shape returns the shape of the RPC.
func (c *Call) Shape() Shape { return c.shape }

// Protocol returns the wire protocol of the RPC.
func (c *Call) Protocol() Protocol { return c.protocol }

// Peer returns the other end of the call.
func (c *Call) Peer() Peer { return c.outcome().transport.Peer() }

// Idempotency returns what the method's descriptor says about repeating it.
func (c *Call) Idempotency() Idempotency { return c.transport.Describe().Idempotency }

// Schema returns the method's descriptor, a protoreflect.MethodDescriptor, or
// nil if the stack has none.
func (c *Call) Schema() any { return c.transport.Describe().Schema }

// HTTPMethod returns "GET" or "POST". On a connect client that may use GET, it
// is known once the request was sent, and empty before.
func (c *Call) HTTPMethod() string { return c.outcome().transport.HTTPMethod() }

// RequestHeader returns the metadata of the request. It can be written until
// the innermost next: then a client sends it and a server's handler has it.
func (c *Call) RequestHeader() *Metadata { return &c.header }

// ResponseHeader returns the leading metadata of the response. It can be written
// on a server until it is sent, which on streams the first message does. On a client it is there
// to be read once it came, at the latest when next has returned.
//
// A connect client gets header and trailer of a failed unary call as one: all of it
// is in the trailer then. [Call.ResponseMetadata] is the same everywhere.
func (c *Call) ResponseHeader() *Metadata { return &c.outcome().respHeader }

// ResponseTrailer returns the trailing metadata of the response. It can be
// written on a server until the chain has returned; on a client it is there to be read when next has returned.
func (c *Call) ResponseTrailer() *Metadata { return &c.outcome().respTrailer }

// ResponseMetadata returns a read-only copy of response header and trailer as
// one, the values of the header first. It is the same on every stack, also when the call failed.
func (c *Call) ResponseMetadata() *Metadata {
	merged := &Metadata{bound: true, fixed: "it is a copy"}
	merged.raw.Map = map[string][]string{}
	for _, md := range []*Metadata{c.ResponseHeader(), c.ResponseTrailer()} {
		for key, values := range md.All() {
			merged.raw.Map[key] = append(merged.raw.Map[key], values...)
		}
	}
	return merged
}

// Request returns the request message of a unary call, nil on streams: see
// [Call.OnRequest]. It may be changed in place before next; an attempt's is its own.
func (c *Call) Request() any {
	if a := &c.attempt; a.parent != nil && !a.cloned && a.parent.Request() != nil {
		a.cloned = true
		c.request, _ = c.transport.Clone(a.parent.Request())
	}
	return c.request
}

// Outgoing returns the request message to send, for adapters: without the copy that
// [Call.Request] makes for an attempt, since nobody changed it.
func (c *Call) Outgoing() any {
	if a := &c.attempt; a.parent != nil && !a.cloned {
		return a.parent.Outgoing()
	}
	return c.request
}

// Response returns the response message of a unary call, once there is one: the
// handler's or the server's after next, or that of [Call.SetResponse]. It is nil before that, after a failure, and
// on streams.
func (c *Call) Response() any {
	if c.shape != ShapeUnary {
		return nil
	}
	return c.reply()
}

// reply is the one response of a call that has one, or nil.
func (c *Call) reply() any {
	if c.failed.Load() {
		return nil
	}
	c.mu.Lock()
	response := c.response
	c.mu.Unlock()
	if response != nil {
		return response
	}
	if adopted := c.attempts.adopted.Load(); adopted != nil {
		return adopted.reply()
	}
	return nil
}

// respond keeps the response. One that is unmet has yet to meet the hooks.
func (c *Call) respond(msg any, unmet bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.response, c.unmet = msg, unmet
}

// takeUnmet reports whether there is a response that has to meet the hooks, once.
func (c *Call) takeUnmet() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	unmet := c.unmet
	c.unmet = false
	return unmet
}

// SetResponse answers a call whose shape has one response (unary, client
// stream): an interceptor that returns nil without calling next, or after next failed, says with it what
// the peer or the application gets. The message must be of the method's response type. It
// fails on the other shapes.
//
// On connect clients the Go type must be known to connectx, because it was seen before or
// was registered; otherwise the call fails with an Internal error that says how.
func (c *Call) SetResponse(msg any) error {
	switch {
	case c.shape != ShapeUnary && c.shape != ShapeClientStream:
		return faultf(CodeFailedPrecondition, "a %s call has no single response to set", c.shape)
	case msg == nil || reflect.TypeOf(msg).Kind() == reflect.Pointer && reflect.ValueOf(msg).IsNil():
		return faultf(CodeInvalidArgument, "the response to set is nil")
	}
	c.respond(msg, true)
	c.failed.Store(false)
	return nil
}

// OnRequest asks for each request message, on either side and in any shape:
// before it is sent on clients, after it arrived on servers. See [Hook].
//
// It must be called before next: later it panics, because messages would be missed.
func (c *Call) OnRequest(hook Hook) { c.addHook(hook, true) }

// OnResponse asks for each response message, on either side and in any shape:
// after it arrived on clients, before it is sent on servers. See [Hook].
//
// It must be called before next: later it panics, because messages would be missed.
func (c *Call) OnResponse(hook Hook) { c.addHook(hook, false) }

// Normalize returns err such that [CodeOf] answers with the code that the wire
// would carry, also if the error is of the stack's own type. Errors returned by next are normalized.
func (c *Call) Normalize(err error) error {
	if err == nil {
		return nil
	}
	return c.transport.Normalize(err)
}

// Init makes c ready for a chain, for adapters. The request is nil on streams.
func (c *Call) Init(t Transport, m Method, side Side, shape Shape, protocol Protocol, request any) {
	c.transport, c.method, c.side, c.shape, c.protocol, c.request = t, m, side, shape, protocol, request
	c.header.call, c.header.kind = c, KindRequestHeader
	c.respHeader.call, c.respHeader.kind = c, KindResponseHeader
	c.respTrailer.call, c.respTrailer.kind = c, KindResponseTrailer
	if side == SideClient {
		c.respHeader.fixed, c.respTrailer.fixed = onlyServers, onlyServers
	}
}

const onlyServers = "only servers write response metadata"

// Received makes response metadata be read from the stack again, for client
// adapters: it is called when there is more of it than before.
func (c *Call) Received() {
	c.respHeader.Rebind()
	c.respTrailer.Rebind()
}

// Transport returns what the adapter gave to [Call.Init].
func (c *Call) Transport() Transport { return c.transport }

// Outcome returns the call whose response counts: c, or the attempt that was adopted. For adapters.
func (c *Call) Outcome() *Call { return c.outcome() }

func (c *Call) outcome() *Call {
	for {
		adopted := c.attempts.adopted.Load()
		if adopted == nil {
			return c
		}
		c = adopted
	}
}

// Reply returns the response of a call that has one and whose chain returned nil, or
// an Internal error that names the remedy. For adapters.
func (c *Call) Reply() (any, error) {
	if msg := c.reply(); msg != nil {
		return msg, nil
	}
	return nil, c.missingResponse()
}

func (c *Call) missingResponse() error {
	return faultf(CodeInternal, "an interceptor made %s a success without a response: call SetResponse before returning nil"+
		" (and Adopt the attempt that counts)", c.method)
}

// enter moves the call to a link of the chain, or refuses to.
func (c *Call) enter(ctx context.Context, level int32) error {
	for {
		was := c.level.Load()
		if was >= level {
			return faultf(CodeInternal, "next was called twice with one call of %s: give each its own, made by NewAttempt before the first", c.method)
		}
		if c.level.CompareAndSwap(was, level) {
			break
		}
	}
	if hooks := c.hooks.Load(); hooks != nil {
		hooks.bind(ctx)
	}
	if c.attempts.count.Load() > 0 {
		return faultf(CodeInternal, "next was called with a call of %s that has attempts: give it an attempt", c.method)
	}
	if c.attempt.parent != nil {
		return c.attempt.enter(ctx)
	}
	return nil
}

// invoke is the innermost next: it returns when the RPC is over.
func (c *Call) invoke(ctx context.Context) error {
	c.arm()
	c.header.Seal("it was handed on")
	if c.stream != nil {
		return c.stream.drive(ctx, c)
	}
	// An RPC that is too late does not reach its handler: not all shapes of all stacks see to that.
	if c.side == SideServer && ctx.Err() != nil {
		return c.finish(ctx.Err())
	}
	hooks := c.hooks.Load()
	if hooks == nil {
		return c.Normalize(c.transport.Invoke(ctx, c))
	}
	defer hooks.close() // also when the handler panics
	var err error
	if c.shape == ShapeUnary {
		err = c.meet(true, c.Request())
	}
	if err == nil {
		err = c.Normalize(c.transport.Invoke(ctx, c))
	}
	if err == nil && c.shape == ShapeUnary && c.takeUnmet() {
		err = c.meet(false, c.reply())
	}
	return c.finish(err)
}

// leave is called after each interceptor and after the RPC itself. After the one that made attempts, or
// answered by itself, the response meets the hooks outside of it.
func (c *Call) leave(ctx context.Context, level int32, err error) error {
	unmet := false
	if c.attempts.count.Load() > 0 && c.attempts.level == level {
		unmet = c.shape == ShapeUnary && c.reply() != nil
		err = c.finish(err)
	}
	if level > 0 { // else a chain inside of an interceptor, whose link does it
		unmet = c.takeUnmet() || unmet
	}
	if unmet && err == nil {
		err = c.meetAnswer(ctx, level, c.reply())
	}
	c.failed.Store(err != nil)
	return err
}

// attempts is what a call knows about the attempts made of it.
type attempts struct {
	level   int32        // of the link that made them; written before count
	count   atomic.Int32 // so far
	adopted atomic.Pointer[Call]

	mu    sync.Mutex // attempts may run at once
	asked bool       // the requests met the hooks outside, or will
	err   error
}

// attempt is what an attempt knows about itself.
type attempt struct {
	parent  *Call
	number  int32
	cloned  bool
	refused error
}

// NewAttempt returns a call of its own for one of several next of an
// interceptor that retries or hedges, on clients: next(ctx, attempt). It starts from the call as it stands;
// what happens to it stays with it until [Call.Adopt] makes it count. The unary attempts of a call may
// run at once; those of a stream run one after the other, until one is [Call.Committed].
//
// Hooks that the interceptor itself has on the call get the context of its first attempt.
//
// All of the interceptor's next must have attempts, the first one too. On servers next
// returns a FailedPrecondition error for an attempt.
func (c *Call) NewAttempt() *Call {
	a := attempt{parent: c}
	var next *Call
	switch {
	case c.side != SideClient:
		a.refused = faultf(CodeFailedPrecondition, "attempts are for clients: a server runs its handler once")
	case c.stream != nil && c.attempt.parent != nil:
		a.refused = faultf(CodeFailedPrecondition, "an attempt of a stream cannot have attempts: use one interceptor that retries")
	default:
		c.Request() // an attempt's own, once: its attempts may run at once
		next = c.transport.NewAttempt(c)
	}
	if next == nil {
		next = &Call{}
		next.Init(c.transport, c.method, c.side, c.shape, c.protocol, c.request)
	}
	next.stream = c.stream
	next.level.Store(c.level.Load())
	if a.refused == nil {
		if c.attempts.count.Load() == 0 {
			c.attempts.level = c.level.Load()
		}
		a.number = c.attempts.count.Add(1)
	}
	next.attempt = a
	return next
}

// Adopt makes the attempt that counts the outcome of the call: its response, its
// metadata, its peer. The last attempt must be adopted even if it failed. A stream adopts
// the attempt that commits by itself. Adopt panics if attempt is not one of c.
func (c *Call) Adopt(attempt *Call) {
	if attempt == nil || attempt.attempt.parent != c {
		panic("core: Adopt wants an attempt that this call's NewAttempt returned")
	}
	if attempt.attempt.refused != nil {
		return
	}
	c.respond(nil, false)
	c.attempts.adopted.Store(attempt)
}

// Attempt returns the number of the attempt, from 1; it is 1 for a call that is none.
func (c *Call) Attempt() int {
	return max(1, int(c.attempt.number))
}

// Committed reports whether the application has seen something of this attempt
// of a stream, or too much was sent to send it again, so that no further attempt is possible.
// It is false for unary calls.
func (c *Call) Committed() bool {
	return c.stream != nil && c.attempt.parent != nil && c.stream.isCommitted(c)
}

// enter runs the hooks outside of the attempts, once.
func (a *attempt) enter(ctx context.Context) error {
	if a.refused != nil {
		return a.refused
	}
	parent := a.parent
	made := &parent.attempts
	made.mu.Lock()
	defer made.mu.Unlock()
	if made.asked {
		return made.err
	}
	made.asked = true
	hooks := parent.hooks.Load()
	if hooks != nil {
		hooks.bind(ctx)
	}
	parent.arm()
	if hooks != nil && parent.shape == ShapeUnary {
		made.err = parent.meet(true, parent.Request())
	}
	return made.err
}
