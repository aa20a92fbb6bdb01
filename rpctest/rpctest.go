// Package rpctest tests interceptors on every stack, protocol and shape at once.
//
//	rpctest.Run(t, &rpctest.Options{Server: []core.Interceptor{auth}}, func(t *testing.T, c *rpctest.Client) {
//		c.With("authorization", "wrong").Call(t.Context(), "hello").Want(t, core.CodeUnauthenticated, "")
//	})
//
// runs the function as a subtest for each [Path] and shape, against servers of connect-go and grpc-go
// that serve the Dummy service. It echoes what it gets; see [Options.Cases] for how to make it do something else.
//
// Everything runs in memory, without ports, also inside a testing/synctest bubble.
//
// [Call] runs interceptors without any stack, a [Recorder] writes down what interceptors see, and [TestAdapter]
// tests an adapter of a further stack.
package rpctest

import (
	"context"
	"fmt"
	"net"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/grpc"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/internal/dummy"
)

// Stack is an implementation of RPC for Go.
type Stack string

// The stacks.
const (
	Connect Stack = "connect"
	GRPC    Stack = "grpc"
)

// Path is a way from a client to a server.
type Path struct {
	Client   Stack
	Server   Stack
	Protocol core.Protocol
	// Codec is "proto" or "json".
	Codec string
	// HTTP is the version: 1 or 2.
	HTTP int
}

// String returns a name for subtests: "connect-connect/grpcweb/proto/h1".
func (p Path) String() string {
	return fmt.Sprintf("%s-%s/%s/%s/h%d", p.Client, p.Server, p.Protocol, p.Codec, p.HTTP)
}

// Can reports whether the path can carry the shape: bidirectional streams need HTTP/2.
func (p Path) Can(shape core.Shape) bool { return p.HTTP == 2 || shape != core.ShapeBidiStream }

// Paths returns all paths.
func Paths() []Path {
	return []Path{
		{Connect, Connect, core.ProtocolConnect, "proto", 1},
		{Connect, Connect, core.ProtocolConnect, "proto", 2},
		{Connect, Connect, core.ProtocolConnect, "json", 1},
		{Connect, Connect, core.ProtocolConnect, "json", 2},
		{Connect, Connect, core.ProtocolGRPCWeb, "proto", 1},
		{Connect, Connect, core.ProtocolGRPCWeb, "proto", 2},
		{Connect, Connect, core.ProtocolGRPC, "proto", 2},
		{GRPC, Connect, core.ProtocolGRPC, "proto", 2},
		{GRPC, GRPC, core.ProtocolGRPC, "proto", 2},
		{Connect, GRPC, core.ProtocolGRPC, "proto", 2},
	}
}

// Shapes returns the four shapes.
func Shapes() []core.Shape {
	return []core.Shape{core.ShapeUnary, core.ShapeClientStream, core.ShapeServerStream, core.ShapeBidiStream}
}

// Case is what the Dummy service does with a special input: it returns the output
// or an error, or panics.
type Case = dummy.Case

// Input is a request message in the hands of a [Case].
type Input = dummy.Input

// Raises is a [Case] that fails with err.
func Raises(err error) Case { return dummy.Raises(err) }

// Panics is a [Case] that panics with value.
func Panics(value any) Case { return dummy.Panics(value) }

// Options say what to test. The zero value tests no interceptors on everything.
type Options struct {
	// Server and Client are the interceptors on each side, outermost first.
	Server, Client []core.Interceptor
	// Cases are special inputs of the Dummy service, beside those that it has: "fail:not_found" fails with
	// that code, "sleep:1s" sleeps, "metadata" copies request keys x-echo-* into the response header and,
	// as x-trailer-*, into the trailer, and so on.
	Cases map[string]Case
	// Paths are the paths to test, nil for all.
	Paths []Path
	// Shapes are the shapes to test, nil for all four.
	Shapes []core.Shape
	// Network is how client and server are joined: in memory by default.
	Network Network
	// Dial, unless nil, is how clients connect instead: to a server of the test's own, which need not be one of RPC.
	Dial func(ctx context.Context) (net.Conn, error)

	// Further options of the stacks, for what is not an interceptor.
	HandlerOptions []connect.HandlerOption
	ClientOptions  []connect.ClientOption
	ServerOptions  []grpc.ServerOption
	DialOptions    []grpc.DialOption
}

func (o *Options) paths() []Path {
	if o.Paths != nil {
		return o.Paths
	}
	return Paths()
}

func (o *Options) shapes() []core.Shape {
	if o.Shapes != nil {
		return o.Shapes
	}
	return Shapes()
}

// Run runs test as a subtest for each path and shape, named after them:
// "connect-connect/grpcweb/proto/h1/server_stream". Nil options are the zero ones. Servers
// and clients are gone when Run returns.
func Run(t *testing.T, o *Options, test func(t *testing.T, c *Client)) {
	t.Helper()
	if o == nil {
		o = &Options{}
	}
	s := NewServers(t, o)
	for _, path := range o.paths() {
		for _, shape := range o.shapes() {
			if path.Can(shape) {
				t.Run(path.String()+"/"+shape.String(), func(t *testing.T) { test(t, s.Client(path, shape)) })
			}
		}
	}
	s.Close()
	s.abandon()
}
