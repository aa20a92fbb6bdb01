package core

import "context"

// Transport is what an adapter supplies for one call: the stack below the chain.
// An adapter makes one value for each RPC that embeds [Call] and is its Transport,
// and runs it like this:
//
//	rpc := &unaryServer{...}
//	rpc.Init(rpc, method, core.SideServer, core.ShapeUnary, core.ProtocolGRPC, request)
//	err := chain.Handler()(ctx, &rpc.Call)
//
// and then hands out err and [Call.Reply], or flushes the response metadata, as its stack wants it.
// Servers and unary clients are this simple, because their Invoke blocks. What a server stream
// adds is that each message goes through [Call.RequestMessage] or [Call.ResponseMessage],
// that nothing moves once [Call.Stuck] says so, and that a [RequestWaiter] receives. A client stream is a [StreamTransport] in the hands of a [ClientStream].
//
// Metadata stays where the stack has it: Metadata returns the map when somebody wants it. The adapter
// calls Seal when a header was sent.
type Transport interface {
	// Invoke carries the call out and returns when it is over: the handler, or
	// the RPC. A unary call's request is call.Request; its response goes to call.SetResponse. It is not
	// called on client streams.
	Invoke(ctx context.Context, call *Call) error
	// Metadata returns the stack's map.
	Metadata(kind MetadataKind) RawMetadata
	// Peer returns the other end, as far as it is known.
	Peer() Peer
	// Describe returns what the definition of the method says.
	Describe() Description
	// HTTPMethod returns GET or POST, or "" while it is not known.
	HTTPMethod() string
	// Normalize returns err, or an error that wraps it and is a CodedError, if the first coded error
	// in it is of the stack's own type. See FindCoded.
	Normalize(err error) error
	// NewAttempt returns a call for one more attempt of call, with a copy of its request metadata.
	// It is not called on servers.
	NewAttempt(call *Call) *Call
	// Clone returns a deep copy of a message and its size in bytes. The size is -1 if the copy may share
	// something with the message, so that it cannot be kept: the application may use its message again.
	Clone(msg any) (clone any, size int)
}

// StreamTransport is the [Transport] of a client stream.
type StreamTransport interface {
	Transport
	// Open opens the native stream for call, which is the stream's own or an attempt of it.
	Open(ctx context.Context, call *Call) (Stream, error)
	// Edge turns the error that the chain returned into the application's: the stack's own type.
	Edge(err error) error
	// Copy copies the response that an interceptor set into the application's message.
	Copy(dst, src any) error
	// SingleResponse says that the only response of a client-streaming RPC ends it; otherwise
	// the EOF after it does.
	SingleResponse() bool
}

// Stream is a native client stream, opened for one attempt. Its errors are the
// stack's own; the end of a success is io.EOF itself. One goroutine sends while one receives; Close is called
// once, perhaps beside both, after the context was canceled or the stream has ended, and makes a Receive come back.
type Stream interface {
	// Send sends a message, or flushes the header if msg is nil. It returns io.EOF when the stream
	// is over and Receive knows why.
	Send(msg any) error
	// CloseSend ends the requests.
	CloseSend() error
	// Receive fills the application's message.
	Receive(msg any) error
	// Header waits for the response header and reports whether it came. If the stream is found to
	// be over instead, the adapter calls Expire, unless somebody is receiving.
	Header() bool
	// Close releases what the stream holds.
	Close()
}
