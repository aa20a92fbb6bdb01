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

func newGRPCDriver(s *Servers, path Path) driver {
	return grpcDriver{dummyv1.NewDummyServiceClient(s.Conn(path))}
}

func wrapMD(md metadata.MD) *core.Metadata { return core.WrapMetadata(core.RawMetadata{Map: md}) }

func (d grpcDriver) unary(ctx context.Context, header []string, input string) *Result {
	var head, trail metadata.MD
	res, err := d.client.Execute(metadata.AppendToOutgoingContext(ctx, header...), &dummyv1.DummyRequest{Input: input},
		grpc.Header(&head), grpc.Trailer(&trail))
	out := &Result{Header: wrapMD(head), Trailer: wrapMD(trail), Err: err}
	if err == nil {
		out.Outputs = []string{res.GetOutput()}
	}
	return out
}

func (d grpcDriver) open(ctx context.Context, shape core.Shape, header []string) (driven, error) {
	ctx = metadata.AppendToOutgoingContext(ctx, header...)
	switch shape {
	case core.ShapeClientStream:
		stream, err := d.client.ExecuteClientStream(ctx)
		return &grpcStream{ClientStream: stream, recv: func() (string, error) {
			res, err := stream.CloseAndRecv()
			return res.GetOutput(), err
		}, single: true}, err
	case core.ShapeServerStream:
		return &grpcServerStream{ctx: ctx, client: d.client}, nil
	case core.ShapeBidiStream, core.ShapeUnary:
	}
	stream, err := d.client.ExecuteClientServerStream(ctx)
	return &grpcStream{ClientStream: stream, recv: func() (string, error) {
		res, err := stream.Recv()
		return res.GetOutput(), err
	}}, err
}

type grpcStream struct {
	grpc.ClientStream
	recv   func() (string, error)
	single bool // one response
	done   bool
	err    error
}

func (s *grpcStream) send(input string) error { return s.SendMsg(&dummyv1.DummyRequest{Input: input}) }
func (s *grpcStream) closeSend() error        { return s.CloseSend() }
func (s *grpcStream) receive() (string, error) {
	if s.single && s.done {
		if s.err == nil {
			return "", io.EOF
		}
		return "", s.err
	}
	var output string
	output, s.err = s.recv()
	s.done = true
	return output, s.err
}
func (s *grpcStream) close() error { return nil } // its context is canceled
func (s *grpcStream) header() *core.Metadata {
	md, _ := s.Header()
	return wrapMD(md)
}
func (s *grpcStream) trailer() *core.Metadata { return wrapMD(s.Trailer()) }

// grpcServerStream opens with its request.
type grpcServerStream struct {
	ctx    context.Context //nolint:containedctx // until the request is there
	client dummyv1.DummyServiceClient
	stream grpc.ServerStreamingClient[dummyv1.DummyResponse]
	err    error
}

func (s *grpcServerStream) send(input string) error {
	s.stream, s.err = s.client.ExecuteServerStream(s.ctx, &dummyv1.DummyRequest{Input: input})
	return s.err
}
func (s *grpcServerStream) closeSend() error { return nil }
func (s *grpcServerStream) receive() (string, error) {
	if s.err != nil {
		return "", s.err
	}
	res, err := s.stream.Recv()
	return res.GetOutput(), err
}
func (s *grpcServerStream) close() error { return nil }
func (s *grpcServerStream) header() *core.Metadata {
	if s.stream == nil {
		return nil
	}
	md, _ := s.stream.Header()
	return wrapMD(md)
}
func (s *grpcServerStream) trailer() *core.Metadata {
	if s.stream == nil {
		return nil
	}
	return wrapMD(s.stream.Trailer())
}
