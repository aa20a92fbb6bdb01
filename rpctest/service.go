package rpctest

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/internal/dummy"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
)

// Request is the request message of the Dummy service. It has the one field Input.
type Request = dummyv1.DummyRequest

// Response is the response message of the Dummy service. It has the one field Output.
type Response = dummyv1.DummyResponse

// Procedure returns the method of the Dummy service that has the shape:
// "/weft.dummy.v1.DummyService/Execute" is the unary one.
func Procedure(shape core.Shape) string {
	switch shape {
	case core.ShapeClientStream:
		return dummyv1.DummyService_ExecuteClientStream_FullMethodName
	case core.ShapeServerStream:
		return dummyv1.DummyService_ExecuteServerStream_FullMethodName
	case core.ShapeBidiStream:
		return dummyv1.DummyService_ExecuteClientServerStream_FullMethodName
	case core.ShapeUnary:
	}
	return dummyv1.DummyService_Execute_FullMethodName
}

// Service is the Dummy service for the servers of any stack, for an [Adapter]. It
// may be used by many goroutines.
type Service struct{ service dummyv1.DummyServiceServer }

// NewService returns a service with special inputs as in [Options].
func NewService(cases map[string]Case) *Service { return &Service{dummy.New(cases).GRPC()} }

// ServiceStream is a call in the hands of [Service.Serve]: the stack's server side of it. A unary call is
// a stream of one request and one response. One goroutine uses it.
type ServiceStream interface {
	// Receive fills the next request. It returns io.EOF itself after the last one.
	Receive(msg *Request) error
	// Send sends a response. In shapes with one response it is called once, at the end of a success.
	Send(msg *Response) error
	// RequestMetadata returns what the stack gives to a handler: keys in lower case, values raw. It is not changed.
	RequestMetadata() map[string][]string
	// AddHeader and AddTrailer add to the response metadata as the stack's handlers do. Under "-bin" values are raw bytes.
	AddHeader(key, value string) error
	AddTrailer(key, value string) error
}

// Serve serves one call. The error is the handler's, for the adapter to send.
func (s *Service) Serve(ctx context.Context, shape core.Shape, stream ServiceStream) error {
	w := &serviceStream{stream: stream}
	ctx = metadata.NewIncomingContext(ctx, stream.RequestMetadata())
	w.ctx = grpc.NewContextWithServerTransportStream(ctx, serviceTransport{w})
	switch shape {
	case core.ShapeClientStream:
		return s.service.ExecuteClientStream(&grpc.GenericServerStream[Request, Response]{ServerStream: w})
	case core.ShapeBidiStream:
		return s.service.ExecuteClientServerStream(&grpc.GenericServerStream[Request, Response]{ServerStream: w})
	case core.ShapeServerStream, core.ShapeUnary:
	}
	req := &Request{}
	if err := stream.Receive(req); err != nil {
		return err
	}
	if shape == core.ShapeServerStream {
		return s.service.ExecuteServerStream(req, &grpc.GenericServerStream[Request, Response]{ServerStream: w})
	}
	res, err := s.service.Execute(w.ctx, req)
	if err != nil {
		return err
	}
	return stream.Send(res)
}

// serviceStream makes a stream of grpc-go's of any, because generated code for grpc-go takes any.
type serviceStream struct {
	stream ServiceStream
	ctx    context.Context //nolint:containedctx // of the call
}

var _ grpc.ServerStream = (*serviceStream)(nil)

func (w *serviceStream) Context() context.Context { return w.ctx }
func (w *serviceStream) RecvMsg(msg any) error {
	return w.stream.Receive(msg.(*Request)) //nolint:forcetypeassert // the service's
}
func (w *serviceStream) SendMsg(msg any) error {
	return w.stream.Send(msg.(*Response)) //nolint:forcetypeassert // the service's
}
func (w *serviceStream) SetHeader(md metadata.MD) error  { return addAll(md, w.stream.AddHeader) }
func (w *serviceStream) SendHeader(md metadata.MD) error { return w.SetHeader(md) }
func (w *serviceStream) SetTrailer(md metadata.MD)       { _ = addAll(md, w.stream.AddTrailer) }

// serviceTransport is where grpc.SetHeader and grpc.SetTrailer find it in a unary call.
type serviceTransport struct{ *serviceStream }

func (serviceTransport) Method() string { return Procedure(core.ShapeUnary) }
func (t serviceTransport) SetTrailer(md metadata.MD) error {
	return addAll(md, t.stream.AddTrailer)
}

func addAll(md metadata.MD, add func(key, value string) error) error {
	for key, values := range md {
		for _, value := range values {
			if err := add(key, value); err != nil {
				return err
			}
		}
	}
	return nil
}
