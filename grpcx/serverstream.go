package grpcx

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rpcweft/weft/core"
)

// serverStream is what the handler gets: grpc's stream, watched by the hooks.
//
// grpc writes errors of decoding and of size to the wire by itself: those an
// interceptor sees, but cannot rewrite.
type serverStream struct {
	grpc.ServerStream
	rpc    *streamServer
	waiter core.RequestWaiter
}

// Context implements [grpc.ServerStream].
func (s *serverStream) Context() context.Context { return &s.rpc.handed }

// SetHeader implements [grpc.ServerStream].
func (s *serverStream) SetHeader(md metadata.MD) error { return add(s.rpc.ResponseHeader(), md) }

// SendHeader implements [grpc.ServerStream].
func (s *serverStream) SendHeader(md metadata.MD) error {
	if err := add(s.rpc.ResponseHeader(), md); err != nil {
		return err
	}
	return s.rpc.sendHeader(s.ServerStream.SendHeader)
}

// SetTrailer implements [grpc.ServerStream].
func (s *serverStream) SetTrailer(md metadata.MD) { _ = add(s.rpc.ResponseTrailer(), md) }

// RecvMsg implements [grpc.ServerStream].
func (s *serverStream) RecvMsg(msg any) error {
	if err := s.rpc.Stuck(); err != nil {
		return err
	}
	if err := s.waiter.Receive(s.rpc.handed.Context, s.rpc.ctx, s, msg); err != nil {
		if err == s.rpc.handed.Err() { //nolint:errorlint // the waiter's very own: grpc's are statuses
			return status.FromContextError(err).Err()
		}
		return err
	}
	return s.rpc.RequestMessage(msg)
}

// ReceiveRequest implements [core.RequestSource].
func (s *serverStream) ReceiveRequest(msg any) error {
	if s.rpc.origin != nil {
		s.rpc.origin.Receiving()
	}
	return s.ServerStream.RecvMsg(msg)
}

// SendMsg implements [grpc.ServerStream].
func (s *serverStream) SendMsg(msg any) error {
	if err := s.rpc.Stuck(); err != nil {
		return err
	}
	if s.rpc.ctx.Err() != nil {
		return s.ServerStream.SendMsg(msg) // it cannot be sent anymore, so it is not a message
	}
	if err := s.rpc.ResponseMessage(msg); err != nil {
		return err
	}
	if s.rpc.Shape() == core.ShapeClientStream {
		return nil // the call keeps it until the chain agrees
	}
	if err := s.rpc.flushHeader(s.ServerStream.SetHeader); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(msg)
}
