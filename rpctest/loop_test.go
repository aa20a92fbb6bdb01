package rpctest_test

import (
	"context"
	stderrors "errors"
	"io"
	"maps"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/rpctest"
)

// A third adapter, written from the docs of core, errors and rpctest alone: of a stack that never leaves the process.
func TestAThirdAdapterKeepsThePromises(t *testing.T) {
	rpctest.TestAdapter(t, rpctest.Adapter{
		Paths: []rpctest.Path{{Client: "loop", Server: "loop", Protocol: core.ProtocolGRPC, Codec: "none", HTTP: 2}},
		Start: func(_ testing.TB, o *rpctest.Options) rpctest.Environment {
			l := &loop{
				server: core.NewChain(o.Server...).Handler(), client: core.NewChain(o.Client...).Handler(), service: rpctest.NewService(o.Cases),
			}
			l.ctx, l.stop = context.WithCancel(context.Background())
			return l
		},
	})
}

// loop is both ends, and the driver.
type loop struct {
	server, client core.Handler
	service        *rpctest.Service
	ctx            context.Context
	stop           context.CancelFunc
	serving        sync.WaitGroup
}

func (l *loop) Client(path rpctest.Path, shape core.Shape) *rpctest.Client {
	return rpctest.NewClient(path, shape, l)
}

func (l *loop) Close() {
	l.stop()
	l.serving.Wait()
}

// pipe is one RPC on its way.
type pipe struct {
	client, ctx         context.Context // ctx is the server's
	cancel              context.CancelFunc
	shape               core.Shape
	metadata            map[string][]string
	requests, responses chan string
	closeSend           sync.Once
	opened, ended       chan struct{}
	header, trailer     map[string][]string // of the response, once opened and once ended
	status              errors.Status
}

func (l *loop) dial(ctx context.Context, shape core.Shape, metadata map[string][]string) *pipe {
	p := &pipe{
		client: ctx, shape: shape, metadata: maps.Clone(metadata), requests: make(chan string), responses: make(chan string, 1000),
		opened: make(chan struct{}), ended: make(chan struct{}),
	}
	if deadline, ok := ctx.Deadline(); ok {
		p.ctx, p.cancel = context.WithDeadline(l.ctx, deadline)
	} else {
		p.ctx, p.cancel = context.WithCancel(l.ctx)
	}
	context.AfterFunc(ctx, p.cancel)
	l.serving.Go(func() { l.serve(p) })
	return p
}

func (p *pipe) send(text string) error {
	select {
	case p.requests <- text:
		return nil
	case <-p.ended:
	case <-p.ctx.Done():
	}
	return io.EOF
}

func (p *pipe) receive() (string, error) {
	select {
	case text := <-p.responses:
		return text, nil
	case <-p.ended:
		select {
		case text := <-p.responses:
			return text, nil
		default:
			return "", p.failure()
		}
	case <-p.ctx.Done():
		switch {
		case p.client.Err() != nil:
			return "", p.client.Err()
		case errors.Is(p.ctx.Err(), context.DeadlineExceeded):
			return "", p.ctx.Err()
		}
		return "", errors.Unavailable("the connection is closed")
	}
}

func (p *pipe) failure() error {
	if p.status.Code == core.CodeOK {
		return io.EOF
	}
	return errors.FromNative(errors.Native{
		Whole: stderrors.New(p.status.Message), Code: p.status.Code, Message: p.status.Message, Upstream: true,
		Details: func() []*anypb.Any { return p.status.Details },
	})
}

// loopServer is one RPC on the server.
type loopServer struct {
	core.Call
	loop   *loop
	pipe   *pipe
	once   sync.Once
	handed context.Context //nolint:containedctx // what the handler has
}

func (l *loop) serve(p *pipe) {
	s := &loopServer{loop: l, pipe: p}
	var request any
	if p.shape == core.ShapeUnary {
		request = &rpctest.Request{Input: <-p.requests}
	}
	method, _ := core.ParseMethod(rpctest.Procedure(p.shape))
	s.Init(s, method, core.SideServer, p.shape, core.ProtocolGRPC, request)
	err := l.server(p.ctx, &s.Call)
	if err == nil && !p.shape.ServerStreams() {
		var msg any
		if msg, err = s.Reply(); err == nil {
			s.flush()
			s.put(msg)
		}
	}
	p.status = errors.Wire(err, nil)
	p.status.Metadata.EachRaw(false, func(key, value string) { _ = s.AddTrailer(key, value) })
	s.flush()
	p.trailer = s.ResponseTrailer().Raw().Map
	close(p.ended)
}

func (s *loopServer) flush() {
	s.once.Do(func() {
		s.ResponseHeader().Seal("it was sent")
		s.pipe.header = s.ResponseHeader().Raw().Map
		close(s.pipe.opened)
	})
}

func (s *loopServer) put(msg any) {
	select {
	case s.pipe.responses <- msg.(*rpctest.Response).GetOutput():
	case <-s.pipe.ctx.Done():
	}
}

func (s *loopServer) Receive(msg *rpctest.Request) error {
	if err := s.Stuck(); err != nil {
		return err
	}
	if s.pipe.shape == core.ShapeUnary {
		proto.Merge(msg, s.Request().(*rpctest.Request))
		return nil
	}
	select {
	case text, ok := <-s.pipe.requests:
		if !ok {
			return io.EOF
		}
		msg.Input = text
		return s.RequestMessage(msg)
	case <-s.handed.Done(): // a stack that can wait for the handler's context needs no core.RequestWaiter
		return s.handed.Err()
	}
}

func (s *loopServer) Send(msg *rpctest.Response) error {
	if err := s.Stuck(); err != nil {
		return err
	}
	if s.pipe.shape == core.ShapeUnary {
		return s.SetResponse(msg)
	}
	if err := s.ResponseMessage(msg); err != nil || s.pipe.shape == core.ShapeClientStream {
		return err
	}
	s.flush()
	s.put(msg)
	return s.pipe.ctx.Err()
}

func (s *loopServer) RequestMetadata() map[string][]string { return s.RequestHeader().Raw().Map }
func (s *loopServer) AddHeader(key, value string) error    { return s.ResponseHeader().Add(key, value) }
func (s *loopServer) AddTrailer(key, value string) error   { return s.ResponseTrailer().Add(key, value) }
func (s *loopServer) Peer() core.Peer                      { return core.Peer{Addr: "loop"} }
func (s *loopServer) Describe() core.Description           { return core.Description{} }
func (s *loopServer) HTTPMethod() string                   { return "" }
func (s *loopServer) Normalize(err error) error            { return err }
func (s *loopServer) NewAttempt(*core.Call) *core.Call     { return nil }
func (s *loopServer) Clone(msg any) (any, int)             { return msg, 0 }
func (s *loopServer) Invoke(ctx context.Context, _ *core.Call) error {
	s.handed = ctx
	return s.loop.service.Serve(ctx, s.pipe.shape, s)
}
func (s *loopServer) Metadata(kind core.MetadataKind) core.RawMetadata {
	if kind == core.KindRequestHeader {
		return core.RawMetadata{Map: s.pipe.metadata}
	}
	return core.RawMetadata{}
}

// loopClient is one RPC of a client, or an attempt of it.
type loopClient struct {
	core.Call
	loop     *loop
	metadata map[string][]string
	pipe     *pipe // once it is on its way
}

func (l *loop) newClient(shape core.Shape, metadata map[string][]string, request any) *loopClient {
	c := &loopClient{loop: l, metadata: metadata}
	method, _ := core.ParseMethod(rpctest.Procedure(shape))
	c.Init(c, method, core.SideClient, shape, core.ProtocolGRPC, request)
	return c
}

func mapOf(header []string) map[string][]string {
	metadata := map[string][]string{}
	for i := 0; i < len(header); i += 2 {
		metadata[header[i]] = append(metadata[header[i]], header[i+1])
	}
	return metadata
}

func (l *loop) Unary(ctx context.Context, header []string, input string) *rpctest.Result {
	c := l.newClient(core.ShapeUnary, mapOf(header), &rpctest.Request{Input: input})
	err := l.client(ctx, &c.Call)
	var msg any
	if err == nil {
		msg, err = c.Reply()
	}
	res := &rpctest.Result{Header: c.ResponseHeader(), Trailer: c.ResponseTrailer()}
	if err != nil {
		res.Err = c.Edge(err)
	} else {
		res.Outputs = []string{msg.(*rpctest.Response).GetOutput()}
	}
	return res
}

func (c *loopClient) Invoke(ctx context.Context, call *core.Call) error {
	defer c.Received()
	c.pipe = c.loop.dial(ctx, call.Shape(), call.RequestHeader().Raw().Map)
	defer c.pipe.cancel()
	_ = c.pipe.send(call.Outgoing().(*rpctest.Request).GetInput())
	output, err := c.pipe.receive()
	if err != nil {
		return err
	}
	if _, err = c.pipe.receive(); !errors.Is(err, io.EOF) {
		return err
	}
	return c.SetResponse(&rpctest.Response{Output: output})
}

func (c *loopClient) Metadata(kind core.MetadataKind) core.RawMetadata {
	is := func(there chan struct{}) bool {
		select {
		case <-there:
			return true
		default:
			return false
		}
	}
	switch {
	case kind == core.KindRequestHeader:
		return core.RawMetadata{Map: c.metadata}
	case c.pipe != nil && kind == core.KindResponseHeader && is(c.pipe.opened):
		return core.RawMetadata{Map: c.pipe.header}
	case c.pipe != nil && kind == core.KindResponseTrailer && is(c.pipe.ended):
		return core.RawMetadata{Map: c.pipe.trailer}
	}
	return core.RawMetadata{}
}

func (c *loopClient) Peer() core.Peer            { return core.Peer{Addr: "loop"} }
func (c *loopClient) Describe() core.Description { return core.Description{} }
func (c *loopClient) HTTPMethod() string         { return "" }
func (c *loopClient) Normalize(err error) error  { return err }
func (c *loopClient) SingleResponse() bool       { return false }
func (c *loopClient) Clone(msg any) (any, int) {
	return proto.Clone(msg.(proto.Message)), proto.Size(msg.(proto.Message))
}
func (c *loopClient) Copy(dst, src any) error {
	proto.Merge(dst.(proto.Message), src.(proto.Message))
	return nil
}
func (c *loopClient) NewAttempt(call *core.Call) *core.Call {
	return &c.loop.newClient(call.Shape(), maps.Clone(call.RequestHeader().Raw().Map), nil).Call
}
func (c *loopClient) Edge(err error) error {
	status := errors.Wire(err, nil)
	return errors.FromNative(errors.Native{
		Whole: err, Code: status.Code, Message: status.Message, Upstream: true, Metadata: c.ResponseMetadata(),
		Details: func() []*anypb.Any { return status.Details },
	})
}

// loopStream is a client's stream in the hands of the application.
type loopStream struct {
	core core.ClientStream
	root *loopClient
}

func (l *loop) Open(ctx context.Context, shape core.Shape, header []string) (rpctest.DriverStream, error) {
	s := &loopStream{root: l.newClient(shape, mapOf(header), nil)}
	s.core.Start(ctx, l.client, &s.root.Call)
	return s, nil
}

func (c *loopClient) Open(ctx context.Context, call *core.Call) (core.Stream, error) {
	attempt := call.Transport().(*loopClient)
	attempt.pipe = c.loop.dial(ctx, call.Shape(), call.RequestHeader().Raw().Map)
	return loopNative{attempt}, nil
}

func (s *loopStream) Send(input string) error { return s.core.Send(&rpctest.Request{Input: input}) }
func (s *loopStream) CloseSend() error        { return s.core.CloseSend() }
func (s *loopStream) Close() error            { return s.core.Close() }
func (s *loopStream) Receive() (string, error) {
	if s.root.Shape() == core.ShapeClientStream {
		_ = s.core.CloseSend()
	}
	msg := &rpctest.Response{}
	err := s.core.Receive(msg)
	return msg.GetOutput(), err
}
func (s *loopStream) Header() *core.Metadata {
	_ = s.core.Header()
	return s.root.ResponseHeader()
}
func (s *loopStream) Trailer() *core.Metadata { return s.root.ResponseTrailer() }

// loopNative is the stack's own stream.
type loopNative struct{ *loopClient }

func (n loopNative) Send(msg any) error { return n.pipe.send(msg.(*rpctest.Request).GetInput()) }
func (n loopNative) CloseSend() error {
	n.pipe.closeSend.Do(func() { close(n.pipe.requests) })
	return nil
}
func (n loopNative) Receive(msg any) error {
	output, err := n.pipe.receive()
	msg.(*rpctest.Response).Output = output
	n.Received()
	return err
}
func (n loopNative) Header() bool {
	select {
	case <-n.pipe.opened:
		n.Received()
		return true
	case <-n.pipe.ctx.Done():
		return false
	}
}
func (n loopNative) Close() { n.pipe.cancel() }
