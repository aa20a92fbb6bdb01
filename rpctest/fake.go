package rpctest

import (
	"context"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/internal/message"
)

// Fake describes an RPC without a stack, for tests that take microseconds. The zero value is a unary
// call of the Dummy service on a server that succeeds without a message.
type Fake struct {
	// Side is the server's if it is zero, Shape unary, Protocol gRPC.
	Side     core.Side
	Shape    core.Shape
	Protocol core.Protocol
	// Method is that of the Dummy service for the shape if it is empty: see [Procedure].
	Method string
	Peer   core.Peer
	// Description is what the method's definition says.
	Description core.Description
	// RequestHeader, ResponseHeader and ResponseTrailer are metadata, keys in lower case and values raw.
	RequestHeader, ResponseHeader, ResponseTrailer map[string][]string
	// Requests and Responses are the messages: the one of a unary call, those of a stream in order.
	Requests, Responses []any
	// Invoke is what the RPC does, nil for success. The call is the one that reached the end of
	// the chain: an attempt, if an interceptor makes any. An error means that there are no responses.
	Invoke func(ctx context.Context, call *core.Call) error
}

// FakeCall is a call to run interceptors against. See [Call].
type FakeCall struct {
	core.Call
	fake    Fake
	header  map[string][]string
	started atomic.Int64
}

// Call returns a fake call. It panics if the method's name is malformed.
func Call(f Fake) *FakeCall {
	if f.Side == 0 {
		f.Side = core.SideServer
	}
	if f.Shape == 0 {
		f.Shape = core.ShapeUnary
	}
	if f.Protocol == "" {
		f.Protocol = core.ProtocolGRPC
	}
	if f.Method == "" {
		f.Method = Procedure(f.Shape)
	}
	method, err := core.ParseMethod(f.Method)
	if err != nil {
		panic(err)
	}
	c := &FakeCall{fake: f, header: clone(f.RequestHeader)}
	c.init(method)
	return c
}

func (c *FakeCall) init(method core.Method) {
	var request any
	if c.fake.Shape == core.ShapeUnary && len(c.fake.Requests) > 0 {
		request = c.fake.Requests[0]
	}
	c.Init(c, method, c.fake.Side, c.fake.Shape, c.fake.Protocol, request)
}

// Run runs the interceptors around the fake RPC, once, and returns what they
// return. What they did to the call can be read from it then.
func (c *FakeCall) Run(ctx context.Context, interceptors ...core.Interceptor) error {
	return core.NewChain(interceptors...).Handler()(ctx, &c.Call)
}

// Started returns how often the RPC itself was reached: 0 if an interceptor answered,
// more than 1 if one made attempts.
func (c *FakeCall) Started() int { return int(c.started.Load()) }

func clone(md map[string][]string) map[string][]string {
	out := map[string][]string{}
	for key, values := range maps.All(md) {
		out[key] = slices.Clone(values)
	}
	return out
}

// fakeTransport hides from the users of FakeCall that it is the transport, too.
var _ core.Transport = (*FakeCall)(nil)

// Invoke implements [core.Transport].
func (c *FakeCall) Invoke(ctx context.Context, call *core.Call) error {
	c.started.Add(1)
	if call.Shape() != core.ShapeUnary {
		for _, msg := range c.fake.Requests {
			if err := call.RequestMessage(msg); err != nil {
				return err
			}
		}
	}
	if c.fake.Invoke != nil {
		if err := c.fake.Invoke(ctx, call); err != nil {
			return err
		}
	}
	for _, msg := range c.fake.Responses {
		if call.Shape() == core.ShapeUnary {
			return call.SetResponse(msg)
		}
		if err := call.ResponseMessage(msg); err != nil {
			return err
		}
	}
	return nil
}

// Metadata implements [core.Transport].
func (c *FakeCall) Metadata(kind core.MetadataKind) core.RawMetadata {
	switch kind {
	case core.KindRequestHeader:
		return core.RawMetadata{Map: c.header, Agent: c.fake.Side == core.SideServer}
	case core.KindResponseHeader:
		return core.RawMetadata{Map: clone(c.fake.ResponseHeader)}
	case core.KindResponseTrailer:
	}
	return core.RawMetadata{Map: clone(c.fake.ResponseTrailer)}
}

// Peer implements [core.Transport].
func (c *FakeCall) Peer() core.Peer { return c.fake.Peer }

// Describe implements [core.Transport].
func (c *FakeCall) Describe() core.Description { return c.fake.Description }

// HTTPMethod implements [core.Transport].
func (c *FakeCall) HTTPMethod() string { return "POST" }

// Normalize implements [core.Transport]: a fake has no errors of its own.
func (c *FakeCall) Normalize(err error) error { return err }

// Clone implements [core.Transport].
func (c *FakeCall) Clone(msg any) (any, int) { return message.Clone(msg) }

// NewAttempt implements [core.Transport].
func (c *FakeCall) NewAttempt(call *core.Call) *core.Call {
	attempt := &FakeCall{fake: c.fake, header: clone(call.RequestHeader().Raw().Map)}
	attempt.Init(attemptOf{attempt, c}, call.Method(), c.fake.Side, c.fake.Shape, c.fake.Protocol, nil)
	return &attempt.Call
}

// attemptOf counts with the call that the test has.
type attemptOf struct {
	*FakeCall
	of *FakeCall
}

func (a attemptOf) Invoke(ctx context.Context, call *core.Call) error { return a.of.Invoke(ctx, call) }
