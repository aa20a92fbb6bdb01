package grpcx

import (
	"context"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/internal/message"
)

// appStream is the stream that the application gets.
type appStream struct {
	core.ClientStream
	root streamClient
	ctx  context.Context //nolint:containedctx // the application's
	open func(ctx context.Context, more ...grpc.CallOption) (grpc.ClientStream, error)
}

var _ grpc.ClientStream = (*appStream)(nil)

// streamClient is one client stream, or one attempt of it.
type streamClient struct {
	client
	stream *appStream

	mu     sync.Mutex
	native grpc.ClientStream // once open
	known  bool              // the response header can be asked for without waiting
	ended  bool              // the trailer can be asked for
	peer   peer.Peer
	asked  peer.Peer // where grpc puts the peer when the RPC is over
}

// Open implements [core.StreamTransport].
func (s *streamClient) Open(ctx context.Context, call *core.Call) (core.Stream, error) {
	attempt := call.Transport().(*streamClient) //nolint:forcetypeassert // ours
	return attempt.openStream(ctx)
}

func (s *streamClient) openStream(ctx context.Context) (core.Stream, error) {
	native, err := s.stream.open(s.outgoing(ctx), grpc.Peer(&s.asked), grpc.OnFinish(s.finished))
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.native = native
	return &nativeStream{streamClient: s, ClientStream: native}, nil
}

// finished is how grpc tells that the RPC is over, also when nobody receives: that
// is how a closed connection ends a stream.
func (s *streamClient) finished(err error) {
	s.mu.Lock()
	s.peer = s.asked
	s.mu.Unlock()
	s.stream.Expire(&s.Call, err)
}

// NewAttempt implements [core.Transport].
func (s *streamClient) NewAttempt(call *core.Call) *core.Call {
	attempt := &streamClient{stream: s.stream}
	attempt.init(s.ctx, attempt, call.Method(), call.Shape(), nil)
	attempt.attemptOf(call, &s.client)
	return &attempt.Call
}

// Edge implements [core.StreamTransport].
func (s *streamClient) Edge(err error) error { return clientEdge(err, &s.Call) }

// Copy implements [core.StreamTransport].
func (s *streamClient) Copy(dst, src any) error { return message.Copy(dst, src) }

// SingleResponse implements [core.StreamTransport]: grpc looks at the end of the RPC by itself.
func (s *streamClient) SingleResponse() bool { return true }

// Invoke implements [core.Transport]. It is not called on client streams.
func (s *streamClient) Invoke(context.Context, *core.Call) error { return nil }

// Metadata implements [core.Transport].
func (s *streamClient) Metadata(kind core.MetadataKind) core.RawMetadata {
	s.mu.Lock()
	native, known, ended := s.native, s.known, s.ended
	s.mu.Unlock()
	switch {
	case kind == core.KindRequestHeader:
		return s.requestHeader()
	case kind == core.KindResponseHeader && known:
		// Before it is known, asking would wait, and end grpc's own retries.
		md, _ := native.Header()
		return raw(md)
	case kind == core.KindResponseTrailer && ended:
		return raw(native.Trailer())
	}
	return core.RawMetadata{}
}

// Peer implements [core.Transport].
func (s *streamClient) Peer() core.Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return peerOf(&s.peer)
}

// nativeStream is grpc's stream of an attempt as core drives it.
type nativeStream struct {
	*streamClient
	grpc.ClientStream
	receiving sync.Mutex
}

// Send implements [core.Stream].
func (n *nativeStream) Send(msg any) error { return n.SendMsg(msg) }

// Receive implements [core.Stream].
func (n *nativeStream) Receive(msg any) error {
	n.receiving.Lock()
	defer n.receiving.Unlock()
	err := n.receive(msg)
	n.seen(err != nil || !n.Shape().ServerStreams())
	return err
}

// receive is grpc's, but for one fault of it (v1.85): when it tries a refused stream again, and that is refused while what was
// sent is sent once more, it returns io.EOF, as after a success. Asked again it tells why.
func (n *nativeStream) receive(msg any) error {
	err := n.RecvMsg(msg)
	n.mu.Lock()
	begun := n.known
	n.mu.Unlock()
	if err == io.EOF && !begun { //nolint:errorlint // grpc's own
		err = n.RecvMsg(msg)
	}
	return err
}

// seen notes that the response has begun, or is over.
func (n *nativeStream) seen(ended bool) {
	n.mu.Lock()
	fresh := !n.known || ended
	n.known, n.ended = true, n.ended || ended
	n.mu.Unlock()
	if fresh {
		n.Received()
	}
}

// Header implements [core.Stream].
func (n *nativeStream) Header() bool {
	if md, err := n.ClientStream.Header(); md != nil && err == nil {
		n.seen(false)
		return true
	}
	// The stream is over, and grpc has stopped to watch it: only who receives learns why.
	if n.receiving.TryLock() {
		defer n.receiving.Unlock()
		err := n.receive(&emptypb.Empty{}) // there is no message to fill it with
		n.seen(true)
		n.stream.Expire(&n.Call, err)
	}
	return false
}

// Close implements [core.Stream]: grpc's stream ends with its context.
func (n *nativeStream) Close() {}

// SendMsg implements [grpc.ClientStream].
func (a *appStream) SendMsg(msg any) error {
	err := a.Send(msg)
	if err == io.EOF && !a.root.Shape().ClientStreams() { //nolint:errorlint // core's own
		return nil // as grpc does: generated code takes it for the result, which RecvMsg has
	}
	return err
}

// RecvMsg implements [grpc.ClientStream].
func (a *appStream) RecvMsg(msg any) error { return a.Receive(msg) }

// Header implements [grpc.ClientStream].
func (a *appStream) Header() (metadata.MD, error) {
	_ = a.ClientStream.Header() // as with grpc's own, the error comes with RecvMsg
	return a.outcome().Metadata(core.KindResponseHeader).Map, nil
}

// Trailer implements [grpc.ClientStream].
func (a *appStream) Trailer() metadata.MD {
	return a.outcome().Metadata(core.KindResponseTrailer).Map
}

// Context implements [grpc.ClientStream]. As grpc says, it ends grpc's own retries.
func (a *appStream) Context() context.Context {
	out := a.outcome()
	out.mu.Lock()
	native := out.native
	out.mu.Unlock()
	if native == nil {
		return a.ctx
	}
	return native.Context()
}

func (a *appStream) outcome() *streamClient {
	return a.root.Outcome().Transport().(*streamClient) //nolint:forcetypeassert // ours
}
