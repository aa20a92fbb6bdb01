package rpctest

import (
	"context"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
)

type grpcDriver struct{ client dummyv1.DummyServiceClient }

var _ Driver = grpcDriver{}

func wrapMD(md metadata.MD) *core.Metadata { return core.WrapMetadata(core.RawMetadata{Map: md}) }

// Unary implements [Driver].
func (d grpcDriver) Unary(ctx context.Context, header []string, input string) *Result {
	var head, trail metadata.MD
	res, err := d.client.Execute(metadata.AppendToOutgoingContext(ctx, header...), &dummyv1.DummyRequest{Input: input},
		grpc.Header(&head), grpc.Trailer(&trail))
	out := &Result{Header: wrapMD(head), Trailer: wrapMD(trail), Err: err}
	if err == nil {
		out.Outputs = []string{res.GetOutput()}
	}
	return out
}

// Open implements [Driver].
func (d grpcDriver) Open(ctx context.Context, shape core.Shape, header []string) (DriverStream, error) {
	ctx = metadata.AppendToOutgoingContext(ctx, header...)
	switch shape {
	case core.ShapeClientStream:
		stream, err := d.client.ExecuteClientStream(ctx)
		one := &oneResponse{receive: func() (string, error) {
			res, err := stream.CloseAndRecv()
			return res.GetOutput(), err
		}}
		return &grpcStream{stream: stream, receive: one.Receive}, err
	case core.ShapeServerStream:
		return &grpcServerStream{ctx: ctx, client: d.client}, nil
	case core.ShapeBidiStream, core.ShapeUnary:
	}
	stream, err := d.client.ExecuteClientServerStream(ctx)
	return &grpcStream{stream: stream, receive: func() (string, error) {
		res, err := stream.Recv()
		return res.GetOutput(), err
	}}, err
}

// oneResponse receives the one response of a client stream, and then the same end again and again.
type oneResponse struct {
	receive func() (string, error)
	done    bool
	err     error
}

func (o *oneResponse) Receive() (output string, err error) {
	if o.done {
		return "", o.err
	}
	o.done, o.err = true, io.EOF
	if output, err = o.receive(); err != nil {
		o.err = err
	}
	return output, err
}

type grpcStream struct {
	stream  grpc.ClientStream
	receive func() (string, error)
}

func (s *grpcStream) Send(input string) error {
	return s.stream.SendMsg(&dummyv1.DummyRequest{Input: input})
}
func (s *grpcStream) CloseSend() error         { return s.stream.CloseSend() }
func (s *grpcStream) Receive() (string, error) { return s.receive() }
func (s *grpcStream) Close() error             { return nil } // its context is canceled
func (s *grpcStream) Header() *core.Metadata {
	md, _ := s.stream.Header()
	return wrapMD(md)
}
func (s *grpcStream) Trailer() *core.Metadata { return wrapMD(s.stream.Trailer()) }

// grpcServerStream opens with its request.
type grpcServerStream struct {
	ctx    context.Context //nolint:containedctx // until the request is there
	client dummyv1.DummyServiceClient
	stream grpc.ServerStreamingClient[dummyv1.DummyResponse]
	err    error
}

func (s *grpcServerStream) Send(input string) error {
	s.stream, s.err = s.client.ExecuteServerStream(s.ctx, &dummyv1.DummyRequest{Input: input})
	return s.err
}
func (s *grpcServerStream) CloseSend() error { return nil }
func (s *grpcServerStream) Receive() (string, error) {
	if s.err != nil {
		return "", s.err
	}
	res, err := s.stream.Recv()
	return res.GetOutput(), err
}
func (s *grpcServerStream) Close() error { return nil }
func (s *grpcServerStream) Header() *core.Metadata {
	if s.stream == nil {
		return nil
	}
	md, _ := s.stream.Header()
	return wrapMD(md)
}
func (s *grpcServerStream) Trailer() *core.Metadata {
	if s.stream == nil {
		return nil
	}
	return wrapMD(s.stream.Trailer())
}
