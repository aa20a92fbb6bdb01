// Package grpcx runs Weft interceptors on native grpc-go, on servers and on
// clients.
//
//	grpc.NewServer(grpcx.ServerOptions(logging, auth)...)
//	grpc.NewClient(target, grpcx.DialOptions(tracing, retry)...)
//
// The four interceptors behind these options are there too, for those who compose by hand.
package grpcx

import (
	"context"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/internal/message"
)

// ServerOptions returns options for [grpc.NewServer] that run the interceptors,
// the first one outermost, for all methods. They join other chained interceptors in
// the order of the options. It panics if an interceptor is nil.
func ServerOptions(interceptors ...core.Interceptor) []grpc.ServerOption {
	chain := core.NewChain(interceptors...)
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(UnaryServerInterceptor(chain)),
		grpc.ChainStreamInterceptor(StreamServerInterceptor(chain)),
	}
}

// DialOptions returns options for [grpc.NewClient] that run the interceptors,
// the first one outermost, for all calls. It panics if one is nil.
func DialOptions(interceptors ...core.Interceptor) []grpc.DialOption {
	chain := core.NewChain(interceptors...)
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(UnaryClientInterceptor(chain)),
		grpc.WithChainStreamInterceptor(StreamClientInterceptor(chain)),
	}
}

// UnaryServerInterceptor returns the part of [ServerOptions] for unary methods.
func UnaryServerInterceptor(interceptors ...core.Interceptor) grpc.UnaryServerInterceptor {
	chain := core.NewChain(interceptors...).Handler()
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		method, err := core.ParseMethod(info.FullMethod)
		if err != nil {
			return nil, malformed(err)
		}
		s := &unaryServer{handler: handler}
		s.init(ctx, s, method, core.ShapeUnary, req)
		return s.run(ctx, chain)
	}
}

// StreamServerInterceptor returns the part of [ServerOptions] for streams.
func StreamServerInterceptor(interceptors ...core.Interceptor) grpc.StreamServerInterceptor {
	chain := core.NewChain(interceptors...).Handler()
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		method, err := core.ParseMethod(info.FullMethod)
		if err != nil {
			return malformed(err)
		}
		s := &streamServer{srv: srv, handler: handler}
		s.stream.ServerStream, s.stream.rpc = stream, s
		s.init(stream.Context(), s, method, streamShape(info.IsClientStream, info.IsServerStream), nil)
		return s.run(chain)
	}
}

// UnaryClientInterceptor returns the part of [DialOptions] for unary calls.
func UnaryClientInterceptor(interceptors ...core.Interceptor) grpc.UnaryClientInterceptor {
	chain := core.NewChain(interceptors...).Handler()
	return func(ctx context.Context, name string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		method, err := core.ParseMethod(name)
		if err != nil {
			return malformed(err)
		}
		c := &unaryClient{reply: reply, cc: cc, invoker: invoker, opts: opts}
		c.init(ctx, c, method, core.ShapeUnary, req)
		return c.run(ctx, chain)
	}
}

// StreamClientInterceptor returns the part of [DialOptions] for streams.
func StreamClientInterceptor(interceptors ...core.Interceptor) grpc.StreamClientInterceptor {
	chain := core.NewChain(interceptors...).Handler()
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, name string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		method, err := core.ParseMethod(name)
		if err != nil {
			return nil, malformed(err)
		}
		app := &appStream{ctx: ctx, open: func(ctx context.Context, more ...grpc.CallOption) (grpc.ClientStream, error) {
			return streamer(ctx, desc, cc, name, append(slices.Clip(opts), more...)...)
		}}
		app.root.stream = app
		app.root.init(ctx, &app.root, method, streamShape(desc.ClientStreams, desc.ServerStreams), nil)
		app.Start(ctx, chain, &app.root.Call)
		if err := app.WaitOpen(); err != nil {
			return nil, err
		}
		return app, nil
	}
}

// streamShape is the shape of what grpc handles as a stream. A unary method
// may be called as one, by hand; then it is a stream that gets one response.
func streamShape(clientStreams, serverStreams bool) core.Shape {
	return core.ShapeOf(clientStreams || !serverStreams, serverStreams)
}

// rpc is what the four kinds of call share of [core.Transport].
type rpc struct {
	core.Call
	ctx context.Context //nolint:containedctx // grpc's, which knows the metadata
}

func (*rpc) HTTPMethod() string               { return "POST" }
func (*rpc) Normalize(err error) error        { return normalize(err) }
func (*rpc) Clone(msg any) (any, int)         { return message.Clone(msg) }
func (*rpc) NewAttempt(*core.Call) *core.Call { return nil }

// descriptions keeps what was found in the registry by [core.Method].
var descriptions sync.Map

// Describe implements [core.Transport]: grpc has no descriptor at hand, the registry of generated code does.
func (r *rpc) Describe() core.Description {
	if known, ok := descriptions.Load(r.Method()); ok {
		return known.(core.Description) //nolint:forcetypeassert // only we store
	}
	name := strings.ReplaceAll(r.Method().String()[1:], "/", ".")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	method, ok := found.(protoreflect.MethodDescriptor)
	if err != nil || !ok {
		return core.Description{} // not kept: clients choose the names of unknown methods
	}
	description := core.Description{Schema: method}
	if options, ok := method.Options().(*descriptorpb.MethodOptions); ok && proto.Size(options) > 0 {
		description.Idempotency = core.Idempotency(options.GetIdempotencyLevel()) //nolint:gosec // same numbers, 0 to 2
	}
	descriptions.Store(r.Method(), description)
	return description
}

func peerOf(p *peer.Peer) core.Peer {
	var out core.Peer
	if p == nil || p.Addr == nil {
		return out
	}
	out.Addr = p.Addr.String()
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		state := info.State
		out.TLS = &state
	}
	return out
}

// raw is grpc's kind of metadata.
func raw(md metadata.MD) core.RawMetadata { return core.RawMetadata{Map: md} }
