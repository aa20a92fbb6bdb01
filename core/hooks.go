package core

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// Hook is asked about one message, usually a proto.Message. It may change the
// message in place, never keep or replace it. Requests meet the hooks in the order of the chain,
// responses in reverse. The context is the one that its interceptor gave to next, or has itself if it answers without;
// on streams it ends with the stream.
//
// Hooks for requests and hooks for responses may run at the same time as each other, never
// as themselves. next returns only after running hooks have finished, and none starts later. The first
// error or panic of a hook sticks: later sends and receives of the stream return it, and so does
// next. EOF, header flushes and messages that could not be received, or were sent on what is known to be over, are not
// messages. One that turns out in the stack's own send not to be sendable, because it is too large, say, has met the hooks already;
// one whose attempt ends at that moment may have met those outside of the attempt alone.
type Hook func(ctx context.Context, msg any) error

type hook struct {
	run     Hook
	request bool
	level   int32           // of the link that added it
	ctx     context.Context //nolint:containedctx // bound when its interceptor calls next
	shared  bool            // its context is that of the hook before
}

// hooks are those of one call. A call without hooks has none.
type hooks struct {
	list     []hook // changes while the gate is held for writing
	bound    int
	mu       sync.Mutex
	contexts []*hookContext // of list, with mu held

	// Room for those of one interceptor, so that they are no allocations.
	few         [2]hook
	fewContexts [1]*hookContext
	first       hookContext

	// gate is held for reading while hooks run, for writing to close it.
	gate   sync.RWMutex
	closed bool
	// ending is set before contexts of hooks are canceled: what they return because of that is no failure.
	ending atomic.Bool
	stuck  atomic.Pointer[stuck]
}

// stuck is the first failure of a hook.
type stuck struct {
	err   error
	panic *Panic
}

func (c *Call) addHook(run Hook, request bool) {
	name := "OnResponse"
	if request {
		name = "OnRequest"
	}
	if run == nil {
		panic("core: " + name + " of a nil hook")
	}
	if c.armed.Load() {
		panic("core: " + name + " after next: call it before, or messages are missed")
	}
	h := c.hooks.Load()
	if h == nil {
		h = &hooks{}
		h.list, h.contexts = h.few[:0], h.fewContexts[:0]
		c.hooks.Store(h)
	}
	h.gate.Lock()
	defer h.gate.Unlock()
	h.list = append(h.list, hook{run: run, request: request, level: c.level.Load()})
}

// bind gives the hooks that were added since the context of the next that follows.
func (h *hooks) bind(ctx context.Context) {
	h.gate.Lock()
	defer h.gate.Unlock()
	for first := h.bound; h.bound < len(h.list); h.bound++ {
		h.list[h.bound].ctx, h.list[h.bound].shared = ctx, h.bound > first
	}
}

// arm makes the hooks ready for messages. On streams hooks may run in any
// goroutine, so their contexts are made to end with the stream: one that waits would hold up next.
func (c *Call) arm() {
	if c.armed.Swap(true) {
		return
	}
	h := c.hooks.Load()
	if h == nil || c.shape == ShapeUnary {
		return
	}
	h.gate.Lock()
	defer h.gate.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.list {
		if h.list[i].shared {
			h.list[i].ctx = h.list[i-1].ctx
			continue
		}
		c := &h.first
		if len(h.contexts) > 0 {
			c = &hookContext{}
		}
		c.Context, c.over = h.list[i].ctx, h.closed
		h.contexts = append(h.contexts, c)
		h.list[i].ctx = c
	}
}

// hookContext is the context of hooks on a stream. It is context.WithCancel, but costs nothing until somebody waits for it.
type hookContext struct {
	context.Context //nolint:containedctx // the interceptor's

	mu     sync.Mutex
	made   context.Context //nolint:containedctx // by WithCancel, nil until it is asked for
	cancel context.CancelFunc
	over   bool
}

func (c *hookContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.made != nil {
		c.cancel()
	}
}

func (c *hookContext) derive() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made == nil {
		c.made, c.cancel = context.WithCancel(c.Context)
		if c.over {
			c.cancel()
		}
	}
	return c.made
}

// Done implements [context.Context].
func (c *hookContext) Done() <-chan struct{} { return c.derive().Done() }

// Err implements [context.Context].
func (c *hookContext) Err() error { return c.derive().Err() }

// Value implements [context.Context]. Contexts that are made of this one find what ends it here.
func (c *hookContext) Value(key any) any {
	c.mu.Lock()
	from := c.made
	c.mu.Unlock()
	if from == nil {
		from = c.Context
	}
	return from.Value(key)
}

var errOver = &fault{CodeCanceled, "the RPC is over"}

// meet lets the hooks see a message. It is cheap without hooks.
func (c *Call) meet(request bool, msg any) error {
	h := c.hooks.Load()
	if h == nil {
		return nil
	}
	if s := h.stuck.Load(); s != nil {
		return s.err
	}
	h.gate.RLock()
	defer h.gate.RUnlock()
	if h.closed {
		return errOver
	}
	return c.each(h, math.MaxInt32, request, msg)
}

// meetAnswer lets the hooks see a response that the interceptor at level gave when the RPC was over, or
// never was: not those inside of it, whose next has returned.
func (c *Call) meetAnswer(ctx context.Context, level int32, msg any) error {
	h := c.hooks.Load()
	if h == nil || h.stuck.Load() != nil {
		return nil // no hooks, or the interceptor has forgiven one that failed
	}
	h.gate.RLock()
	unbound := h.bound < len(h.list)
	h.gate.RUnlock()
	if unbound { // its own: it has not called next
		h.bind(ctx)
	}
	h.gate.RLock()
	defer h.gate.RUnlock()
	err := c.each(h, level, false, msg)
	if s := h.stuck.Load(); s != nil && s.panic != nil {
		s.panic.raise()
	}
	return err
}

// each lets the hooks up to a level see a message. The gate is held.
func (c *Call) each(h *hooks, level int32, request bool, msg any) (err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if value := recover(); value != nil { // nil: runtime.Goexit, which goes on
			err = h.stick(&fault{CodeInternal, PublicMessage(CodeInternal)}, asPanic(value))
		}
	}()
	for i := range h.list {
		one := &h.list[i]
		if !request {
			one = &h.list[len(h.list)-1-i]
		}
		if one.request != request || one.level > level {
			continue
		}
		if err = one.run(one.ctx, msg); err != nil {
			err = h.stick(c.Normalize(err), nil)
			break
		}
	}
	returned = true
	return err
}

// stick keeps the first failure and returns it.
func (h *hooks) stick(err error, p *Panic) error {
	if h.ending.Load() && p == nil {
		return err
	}
	h.stuck.CompareAndSwap(nil, &stuck{err, p})
	return h.stuck.Load().err
}

// interrupt ends the contexts of hooks on a stream that has ended.
func (h *hooks) interrupt() {
	h.ending.Store(true)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.contexts {
		c.end()
	}
}

// close waits for running hooks and lets no other start.
func (h *hooks) close() {
	h.interrupt()
	h.gate.Lock()
	h.closed = true
	h.gate.Unlock()
}

// finish closes the hooks and returns what next returns: what stuck, or else
// err. A panic that stuck goes on here, in the chain.
func (c *Call) finish(err error) error {
	h := c.hooks.Load()
	if h == nil {
		return err
	}
	h.close()
	s := h.stuck.Load()
	if s == nil {
		return err
	}
	if s.panic != nil {
		s.panic.raise()
	}
	return s.err
}

// RequestMessage lets the hooks see a request message of a server stream, for
// adapters: after it arrived, without error. The error is what the handler's receive returns.
func (c *Call) RequestMessage(msg any) error { return c.meet(true, msg) }

// ResponseMessage lets the hooks see a response message of a server stream, for
// adapters: before it is sent. The error is what the handler's send returns.
//
// The one response of a client stream it keeps, instead of it being sent: [Call.Reply] has it when the chain
// agrees. Until then an interceptor can make an error of the success, as with unary calls.
func (c *Call) ResponseMessage(msg any) error {
	if err := c.meet(false, msg); err != nil || c.shape != ShapeClientStream {
		return err
	}
	c.respond(msg, false)
	return nil
}

// Stuck returns the error of a hook that failed, for adapters: sends and receives
// of a server stream return it before they touch the stream.
func (c *Call) Stuck() error {
	if h := c.hooks.Load(); h != nil {
		if s := h.stuck.Load(); s != nil {
			return s.err
		}
	}
	return nil
}

// Panic is a panic on its way from the goroutine where it happened to the one
// where it belongs, with the stack that it had. Whoever recovers it finds the original in Value.
type Panic struct { //nolint:errname // it is a panic that happens to be an error
	Value any
	Stack []byte
}

// Error shows value and stack: it is what a process that dies of it prints.
func (p *Panic) Error() string { return fmt.Sprintf("%v\n\n%s", p.Value, p.Stack) }

// Unwrap returns Value if it is an error.
func (p *Panic) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}

func asPanic(value any) *Panic {
	if p, ok := value.(*Panic); ok {
		return p
	}
	return &Panic{value, debug.Stack()}
}

// raise panics again. net/http knows its own value only by identity.
func (p *Panic) raise() {
	if p.Value == any(http.ErrAbortHandler) {
		panic(p.Value)
	}
	panic(p)
}
