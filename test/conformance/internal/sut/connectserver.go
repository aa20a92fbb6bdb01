//go:build stubs

package sut

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	suite "github.com/rpcweft/weft/test/conformance/gen/connectrpc/conformance/v1"
	"github.com/rpcweft/weft/test/conformance/gen/connectrpc/conformance/v1/conformancev1connect"
)

type connectServer struct {
	conformancev1connect.UnimplementedConformanceServiceHandler
}

// respond returns the response that the definition asks for.
func respond[T any](
	ctx context.Context, d *suite.UnaryResponseDefinition, r *received, wrap func(*suite.ConformancePayload) *T,
) (*connect.Response[T], error) {
	payload, failure, err := single(ctx, d, r)
	if err != nil {
		return nil, err
	}
	delay(d.GetResponseDelayMs())
	if failure != nil {
		err := toConnectError(failure)
		if native := new(connect.Error); errors.As(err, &native) {
			addHeaders(d.GetResponseHeaders(), native.Meta().Add)
			addHeaders(d.GetResponseTrailers(), native.Meta().Add)
		}
		return nil, err
	}
	res := connect.NewResponse(wrap(payload))
	addHeaders(d.GetResponseHeaders(), res.Header().Add)
	addHeaders(d.GetResponseTrailers(), res.Trailer().Add)
	return res, nil
}

func (connectServer) Unary(ctx context.Context, req *connect.Request[suite.UnaryRequest]) (*connect.Response[suite.UnaryResponse], error) {
	r := &received{headers: toHeaders(req.Header()), query: toHeaders(req.Peer().Query)}
	if err := r.add(req.Msg); err != nil {
		return nil, err
	}
	return respond(ctx, req.Msg.GetResponseDefinition(), r, func(p *suite.ConformancePayload) *suite.UnaryResponse {
		return &suite.UnaryResponse{Payload: p}
	})
}

func (connectServer) IdempotentUnary(
	ctx context.Context, req *connect.Request[suite.IdempotentUnaryRequest],
) (*connect.Response[suite.IdempotentUnaryResponse], error) {
	r := &received{headers: toHeaders(req.Header()), query: toHeaders(req.Peer().Query)}
	if err := r.add(req.Msg); err != nil {
		return nil, err
	}
	return respond(ctx, req.Msg.GetResponseDefinition(), r, func(p *suite.ConformancePayload) *suite.IdempotentUnaryResponse {
		return &suite.IdempotentUnaryResponse{Payload: p}
	})
}

func (connectServer) ClientStream(
	ctx context.Context, stream *connect.ClientStream[suite.ClientStreamRequest],
) (*connect.Response[suite.ClientStreamResponse], error) {
	r := &received{headers: toHeaders(stream.RequestHeader()), query: toHeaders(stream.Peer().Query)}
	var definition *suite.UnaryResponseDefinition
	for stream.Receive() {
		if len(r.requests) == 0 {
			definition = stream.Msg().GetResponseDefinition()
		}
		if err := r.add(stream.Msg()); err != nil {
			return nil, err
		}
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	return respond(ctx, definition, r, func(p *suite.ConformancePayload) *suite.ClientStreamResponse {
		return &suite.ClientStreamResponse{Payload: p}
	})
}

func (connectServer) ServerStream(
	ctx context.Context, req *connect.Request[suite.ServerStreamRequest], stream *connect.ServerStream[suite.ServerStreamResponse],
) error {
	r := &received{headers: toHeaders(req.Header()), query: toHeaders(req.Peer().Query)}
	if err := r.add(req.Msg); err != nil {
		return err
	}
	d := req.Msg.GetResponseDefinition()
	addHeaders(d.GetResponseHeaders(), stream.ResponseHeader().Add)
	addHeaders(d.GetResponseTrailers(), stream.ResponseTrailer().Add)
	if len(d.GetResponseData()) > 0 {
		if err := stream.Send(nil); err != nil { // the header
			return err
		}
	}
	s := &streamer{received: r, ctx: ctx, definition: d, toError: toConnectError, send: func(p *suite.ConformancePayload) error {
		return stream.Send(&suite.ServerStreamResponse{Payload: p})
	}}
	return s.finish()
}

func (connectServer) BidiStream(ctx context.Context, stream *connect.BidiStream[suite.BidiStreamRequest, suite.BidiStreamResponse]) error {
	r := &received{headers: toHeaders(stream.RequestHeader()), query: toHeaders(stream.Peer().Query)}
	s := &streamer{received: r, ctx: ctx, toError: toConnectError, send: func(p *suite.ConformancePayload) error {
		return stream.Send(&suite.BidiStreamResponse{Payload: p})
	}}
	flush := func() error {
		if len(s.definition.GetResponseData()) == 0 {
			return nil
		}
		return stream.Send(nil)
	}
	return s.bidi(stream.Receive, func(full bool) error {
		addHeaders(s.definition.GetResponseHeaders(), stream.ResponseHeader().Add)
		addHeaders(s.definition.GetResponseTrailers(), stream.ResponseTrailer().Add)
		if full {
			return flush()
		}
		return nil
	}, flush)
}
