package dummy

import (
	"context"

	"google.golang.org/grpc"
	grpcmetadata "google.golang.org/grpc/metadata"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
)

// GRPC returns the service for grpc-go. Its errors are Weft's, so that a server
// needs grpcx to send them.
func (s *Service) GRPC() dummyv1.DummyServiceServer { return grpcService{Service: s} }

type grpcService struct {
	dummyv1.UnimplementedDummyServiceServer

	*Service
}

func (s grpcService) Execute(ctx context.Context, req *dummyv1.DummyRequest) (*dummyv1.DummyResponse, error) {
	res := &dummyv1.DummyResponse{}
	send := func(output string) error {
		res.Output = output
		return nil
	}
	err := s.serve(ctx, core.ShapeUnary, wire{once(req.GetInput()), send, grpcMetadata{
		ctx:     ctx,
		header:  func(md grpcmetadata.MD) error { return grpc.SetHeader(ctx, md) },
		trailer: func(md grpcmetadata.MD) error { return grpc.SetTrailer(ctx, md) },
	}})
	return res, err
}

func (s grpcService) ExecuteClientStream(stream grpc.ClientStreamingServer[dummyv1.DummyRequest, dummyv1.DummyResponse]) error {
	return s.stream(core.ShapeClientStream, stream, receive(stream.Recv), stream.SendAndClose)
}

func (s grpcService) ExecuteServerStream(req *dummyv1.DummyRequest, stream grpc.ServerStreamingServer[dummyv1.DummyResponse]) error {
	return s.stream(core.ShapeServerStream, stream, once(req.GetInput()), stream.Send)
}

func (s grpcService) ExecuteClientServerStream(stream grpc.BidiStreamingServer[dummyv1.DummyRequest, dummyv1.DummyResponse]) error {
	return s.stream(core.ShapeBidiStream, stream, receive(stream.Recv), stream.Send)
}

func (s grpcService) stream(
	shape core.Shape, stream grpc.ServerStream, receive func() (string, error), send func(*dummyv1.DummyResponse) error,
) error {
	return s.serve(stream.Context(), shape, wire{
		receive,
		func(output string) error { return send(&dummyv1.DummyResponse{Output: output}) },
		grpcMetadata{
			ctx:    stream.Context(),
			header: stream.SetHeader,
			trailer: func(md grpcmetadata.MD) error {
				stream.SetTrailer(md)
				return nil
			},
		},
	})
}

type grpcMetadata struct {
	ctx             context.Context
	header, trailer func(grpcmetadata.MD) error
}

func (m grpcMetadata) request() map[string][]string {
	md, _ := grpcmetadata.FromIncomingContext(m.ctx) // a copy
	return md
}

func (m grpcMetadata) addHeader(key, value string) error {
	return m.header(grpcmetadata.Pairs(key, value))
}

func (m grpcMetadata) addTrailer(key, value string) error {
	return m.trailer(grpcmetadata.Pairs(key, value))
}
