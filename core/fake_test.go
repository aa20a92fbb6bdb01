package core_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rpcweft/weft/core"
)

// text is a message.
type text struct{ s string }

// nativeError is the error type of a stack that does not exist.
type nativeError struct {
	code core.Code
	note string
}

func (e *nativeError) Error() string { return "native " + e.note }

// weftError is what that stack's adapter makes of it.
type weftError struct {
	native *nativeError
	whole  error
}

func (e *weftError) Error() string   { return e.whole.Error() }
func (e *weftError) Unwrap() error   { return e.whole }
func (e *weftError) Code() core.Code { return e.native.code }
func (e *weftError) Message() string { return e.native.note }

// edgeError is an error in the dress in which the application gets it.
type edgeError struct{ error }

func (e *edgeError) Unwrap() error { return e.error }

// stack is what the far end of a call does, whatever the attempt.
type stack struct {
	http   bool                                          // its metadata is a http.Header
	single bool                                          // see SingleResponse
	invoke func(ctx context.Context, t *transport) error // servers and unary clients; nil echoes
	open   func(n int, s *stream) error                  // client streams: may prepare the n-th stream
	edge   func(err error) error                         // nil gives an edgeError
	copied func(dst, src any) error                      // nil copies a text

	mu      sync.Mutex
	invoked int
	streams []*stream
}

// stream returns the n-th stream that was opened, from 1.
func (st *stack) stream(n int) *stream {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.streams[n-1]
}

func (st *stack) opened() int {
	st.mu.Lock()
	defer st.mu.Unlock()
	return len(st.streams)
}

// transport is one call, or one attempt of it, in memory.
type transport struct {
	core.Call
	stack *stack
	maps  [core.KindResponseTrailer + 1]map[string][]string
}

var _ core.StreamTransport = (*transport)(nil)

var searchMethod = mustParse("/foo.bar.SearchService/Search")

func mustParse(name string) core.Method {
	m, err := core.ParseMethod(name)
	if err != nil {
		panic(err)
	}
	return m
}

func newCall(st *stack, side core.Side, shape core.Shape) *transport {
	t := &transport{stack: st}
	for i := range t.maps {
		t.maps[i] = map[string][]string{}
	}
	var request any
	if shape == core.ShapeUnary {
		request = &text{"request"}
	}
	t.Init(t, searchMethod, side, shape, core.ProtocolGRPC, request)
	return t
}

// unary runs a unary call of a client through a chain and returns its response.
func unary(ctx context.Context, st *stack, interceptors ...core.Interceptor) (*text, error) {
	call := newCall(st, core.SideClient, core.ShapeUnary)
	if err := core.NewChain(interceptors...).Handler()(ctx, &call.Call); err != nil {
		return nil, err
	}
	reply, err := call.Reply()
	if err != nil {
		return nil, err
	}
	return reply.(*text), nil
}

func (t *transport) Invoke(ctx context.Context, call *core.Call) error {
	t.stack.mu.Lock()
	t.stack.invoked++
	t.stack.mu.Unlock()
	if t.stack.invoke != nil {
		return t.stack.invoke(ctx, t)
	}
	if call.Shape() == core.ShapeUnary {
		return call.SetResponse(&text{call.Outgoing().(*text).s})
	}
	return nil
}

func (t *transport) Metadata(kind core.MetadataKind) core.RawMetadata {
	return core.RawMetadata{Map: t.maps[kind], HTTP: t.stack.http}
}

func (t *transport) Peer() core.Peer { return core.Peer{Addr: fmt.Sprint("peer ", t.Attempt())} }

func (*transport) Describe() core.Description { return core.Description{} }
func (*transport) HTTPMethod() string         { return "POST" }

func (*transport) Normalize(err error) error {
	var converted *weftError
	_ = core.FindCoded(err, func(e error) core.CodedError {
		if native, ok := e.(*nativeError); ok { //nolint:errorlint // FindCoded walks
			converted = &weftError{native, err}
			return converted
		}
		return nil
	})
	if converted != nil {
		return converted
	}
	return err
}

func (t *transport) NewAttempt(call *core.Call) *core.Call {
	attempt := newCall(t.stack, core.SideClient, call.Shape())
	attempt.Init(attempt, call.Method(), call.Side(), call.Shape(), call.Protocol(), nil)
	attempt.maps[core.KindRequestHeader] = maps.Clone(call.RequestHeader().Raw().Map)
	return &attempt.Call
}

func (*transport) Clone(msg any) (any, int) {
	clone := *msg.(*text)
	return &clone, len(clone.s)
}

func (t *transport) Open(ctx context.Context, call *core.Call) (core.Stream, error) {
	s := &stream{ctx: ctx, call: call.Transport().(*transport), responses: make(chan any, 16), header: make(chan bool, 1)}
	st := t.stack
	st.mu.Lock()
	st.streams = append(st.streams, s)
	n := len(st.streams)
	st.mu.Unlock()
	if st.open != nil {
		if err := st.open(n, s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (t *transport) Edge(err error) error {
	if t.stack.edge != nil {
		return t.stack.edge(err)
	}
	return &edgeError{err}
}

func (t *transport) Copy(dst, src any) error {
	if t.stack.copied != nil {
		return t.stack.copied(dst, src)
	}
	*dst.(*text) = *src.(*text)
	return nil
}

func (t *transport) SingleResponse() bool { return t.stack.single }

// stream is a native client stream in memory.
type stream struct {
	ctx       context.Context
	call      *transport
	responses chan any // a string is a message, an error the end
	header    chan bool
	onSend    func(op string) error // may block, fail or panic; nil takes all
	onReceive func(msg any) error   // in place of responses

	mu     sync.Mutex
	got    []string // what the peer got
	closed int
}

func (s *stream) op(op string) error {
	if s.ctx.Err() != nil {
		return io.EOF
	}
	if s.onSend != nil {
		if err := s.onSend(op); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, op)
	return nil
}

func (s *stream) Send(msg any) error {
	if msg == nil {
		return s.op("FLUSH")
	}
	return s.op(msg.(*text).s)
}

func (s *stream) CloseSend() error { return s.op("END") }

// Receive prefers what has come to the end of the context.
func (s *stream) Receive(msg any) error {
	if s.onReceive != nil {
		return s.onReceive(msg)
	}
	select {
	case r := <-s.responses:
		return deliver(r, msg)
	default:
	}
	select {
	case r := <-s.responses:
		return deliver(r, msg)
	case <-s.ctx.Done():
		return s.late()
	}
}

func (s *stream) late() error {
	return &nativeError{core.CodeOf(s.ctx.Err()), "context"}
}

func deliver(response, msg any) error {
	if err, ok := response.(error); ok {
		return err
	}
	msg.(*text).s = response.(string)
	return nil
}

func (s *stream) Header() bool {
	select {
	case came := <-s.header:
		return came
	case <-s.ctx.Done():
		return false
	}
}

func (s *stream) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
}

// sent returns what the peer got so far.
func (s *stream) sent() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.got, " ")
}

// app is the application's side of a client stream in a synctest bubble.
type app struct {
	*core.ClientStream
	*testing.T
	*stack
	call   *transport
	cancel context.CancelFunc

	mu       sync.Mutex
	ctx      context.Context // of the outermost interceptor
	outcomes []error         // what next returned to it
}

// newApp starts a client stream. The outermost interceptor watches what next returns.
func newApp(t *testing.T, st *stack, shape core.Shape, interceptors ...core.Interceptor) *app {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	a := &app{ClientStream: &core.ClientStream{}, T: t, stack: st, cancel: cancel, call: newCall(st, core.SideClient, shape)}
	watch := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		err := next(ctx, call)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.ctx = ctx
		a.outcomes = append(a.outcomes, err)
		return err
	})
	a.Start(ctx, core.NewChain(append([]core.Interceptor{watch}, interceptors...)...).Handler(), &a.call.Call)
	synctest.Wait() // open, if it does
	return a
}

var errBlocked = errors.New("it blocked")

// soon returns what f does, and fails the test if it blocks for good: time in a bubble passes only when all wait.
func (a *app) soon(what string, f func() error) error {
	a.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(24 * time.Hour):
	}
	a.Errorf("%s blocks for good", what)
	a.cancel()
	select {
	case err := <-done:
		return errors.Join(errBlocked, err)
	case <-time.After(time.Hour):
		panic(what + " blocks even when the context is canceled")
	}
}

func (a *app) send(s string) error {
	a.Helper()
	return a.soon("Send of "+s, func() error { return a.Send(&text{s}) })
}

// receive returns the message, or the error.
func (a *app) receive() (string, error) {
	a.Helper()
	var msg text
	err := a.soon("Receive", func() error { return a.Receive(&msg) })
	return msg.s, err
}

// wantReceive checks what Receive brings: a message, or an error with the code (OK: io.EOF).
func (a *app) wantReceive(message string, code core.Code) {
	a.Helper()
	got, err := a.receive()
	switch {
	case message != "":
		if got != message || err != nil {
			a.Errorf("Receive brings %q, %v, want %q", got, err, message)
		}
	case code == core.CodeOK:
		if err != io.EOF { //nolint:errorlint // it must be EOF itself
			a.Errorf("Receive brings %q, %v, want EOF", got, err)
		}
	default:
		a.wantEdge("Receive", err, code)
	}
}

// wantEdge checks an error that the application gets.
func (a *app) wantEdge(what string, err error, code core.Code) {
	a.Helper()
	var edge *edgeError
	if !errors.As(err, &edge) || core.CodeOf(err) != code {
		a.Errorf("%s returns %v, want %s in the stack's dress", what, err, code)
	}
}

func (a *app) close() error {
	a.Helper()
	return a.soon("Close", a.Close)
}

// wantOver checks that the chain ends by itself and that next returned once, with the code.
func (a *app) wantOver(code core.Code) {
	a.Helper()
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.Over() || len(a.outcomes) != 1 || core.CodeOf(a.outcomes[0]) != code {
		a.Errorf("over: %v, next returned %v, want %s once", a.Over(), a.outcomes, code)
		a.cancel() // or it leaks
	}
	if a.ctx != nil && a.ctx.Err() == nil {
		a.Error("the context of the chain is not released")
	}
	for i, s := range a.streams {
		s.mu.Lock()
		if s.closed != 1 || s.ctx.Err() == nil {
			a.Errorf("native stream %d: closed %d times, context %v", i+1, s.closed, s.ctx.Err())
		}
		s.mu.Unlock()
	}
}

// caught returns the value that f panics with.
func caught(f func()) (value any) {
	defer func() { value = recover() }()
	f()
	return nil
}

func wantCode(t *testing.T, what string, err error, code core.Code, parts ...string) {
	t.Helper()
	if core.CodeOf(err) != code {
		t.Errorf("%s: got %v, want %s", what, err, code)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %q does not say %q", what, err, part)
		}
	}
}

func wantText[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// is reports whether two values are the same one.
func is(a, b any) bool { return a == b }

// log collects lines from several goroutines.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) add(args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprint(args...))
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, " ")
}

// tracer logs the way in and out.
func tracer(l *log, name string) core.Interceptor {
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		l.add(name, ">")
		err := next(ctx, call)
		l.add("<", name)
		return err
	})
}

// hooked logs each message that its hooks meet.
func hooked(l *log, name string) core.Interceptor {
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		call.OnRequest(func(_ context.Context, msg any) error { l.add(name, "?", msg.(*text).s); return nil })
		call.OnResponse(func(_ context.Context, msg any) error { l.add(name, "!", msg.(*text).s); return nil })
		return next(ctx, call)
	})
}

// before registers with the call and goes on.
func before(register func(call *core.Call)) core.Interceptor {
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		register(call)
		return next(ctx, call)
	})
}

// retry makes up to so many attempts and adopts the last.
func retry(most int) core.Interceptor {
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		var err error
		for range most {
			attempt := call.NewAttempt()
			err = next(ctx, attempt)
			call.Adopt(attempt)
			if err == nil || attempt.Committed() {
				break
			}
		}
		return err
	})
}
