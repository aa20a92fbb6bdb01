//go:build stubs

package sut

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	suite "github.com/rpcweft/weft/test/conformance/gen/connectrpc/conformance/v1"
)

type grpcServer struct {
	suite.UnimplementedConformanceServiceServer
}

func newReceived(ctx context.Context) *received {
	md, _ := metadata.FromIncomingContext(ctx)
	return &received{headers: fromMD(md)}
}

func (grpcServer) Unary(ctx context.Context, req *suite.UnaryRequest) (*suite.UnaryResponse, error) {
	payload, err := respondGRPC(ctx, req)
	return &suite.UnaryResponse{Payload: payload}, err
}

func (grpcServer) IdempotentUnary(ctx context.Context, req *suite.IdempotentUnaryRequest) (*suite.IdempotentUnaryResponse, error) {
	payload, err := respondGRPC(ctx, req)
	return &suite.IdempotentUnaryResponse{Payload: payload}, err
}

func respondGRPC(ctx context.Context, req interface {
	proto.Message
	GetResponseDefinition() *suite.UnaryResponseDefinition
},
) (*suite.ConformancePayload, error) {
	r := newReceived(ctx)
	if err := r.add(req); err != nil {
		return nil, err
	}
	d := req.GetResponseDefinition()
	if err := grpc.SendHeader(ctx, toMD(d.GetResponseHeaders())); err != nil {
		return nil, err
	}
	if err := grpc.SetTrailer(ctx, toMD(d.GetResponseTrailers())); err != nil {
		return nil, err
	}
	delay(d.GetResponseDelayMs())
	payload, failure, err := single(ctx, d, r)
	if err != nil {
		return nil, err
	}
	if failure != nil {
		return nil, toGRPCError(failure)
	}
	return payload, nil
}

func (grpcServer) ClientStream(stream grpc.ClientStreamingServer[suite.ClientStreamRequest, suite.ClientStreamResponse]) error {
	r := newReceived(stream.Context())
	var d *suite.UnaryResponseDefinition
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if len(r.requests) == 0 {
			d = msg.GetResponseDefinition()
		}
		if err := r.add(msg); err != nil {
			return err
		}
	}
	if err := stream.SendHeader(toMD(d.GetResponseHeaders())); err != nil {
		return err
	}
	stream.SetTrailer(toMD(d.GetResponseTrailers()))
	delay(d.GetResponseDelayMs())
	payload, failure, err := single(stream.Context(), d, r)
	if err != nil {
		return err
	}
	if failure != nil {
		return toGRPCError(failure)
	}
	return stream.SendAndClose(&suite.ClientStreamResponse{Payload: payload})
}

func (grpcServer) ServerStream(req *suite.ServerStreamRequest, stream grpc.ServerStreamingServer[suite.ServerStreamResponse]) error {
	r := newReceived(stream.Context())
	if err := r.add(req); err != nil {
		return err
	}
	d := req.GetResponseDefinition()
	if err := stream.SendHeader(toMD(d.GetResponseHeaders())); err != nil {
		return err
	}
	stream.SetTrailer(toMD(d.GetResponseTrailers()))
	s := &streamer{received: r, ctx: stream.Context(), definition: d, toError: toGRPCError, send: func(p *suite.ConformancePayload) error {
		return stream.Send(&suite.ServerStreamResponse{Payload: p})
	}}
	return s.finish()
}

func (grpcServer) BidiStream(stream grpc.BidiStreamingServer[suite.BidiStreamRequest, suite.BidiStreamResponse]) error {
	s := &streamer{
		received: newReceived(stream.Context()), ctx: stream.Context(), toError: toGRPCError,
		send: func(p *suite.ConformancePayload) error {
			return stream.Send(&suite.BidiStreamResponse{Payload: p})
		},
	}
	return s.bidi(stream.Recv, func(bool) error {
		stream.SetTrailer(toMD(s.definition.GetResponseTrailers()))
		return stream.SendHeader(toMD(s.definition.GetResponseHeaders()))
	}, func() error { return nil })
}
