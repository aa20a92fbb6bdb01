package core

import (
	"context"
	"runtime"
	"sync"
)

// RequestSource is the native receiving side of a server stream, for adapters.
type RequestSource interface {
	// ReceiveRequest fills msg with the next request. It is called by one goroutine at a time, and comes back when
	// the RPC has ended.
	ReceiveRequest(msg any) error
}

// RequestWaiter lets the handler of a server stream out of a receive when its context ends: a native receive hears
// only of the end of the native context, not of one that an interceptor has made shorter. For adapters, which have
// one for each stream. The zero value is ready.
type RequestWaiter struct {
	mu     sync.Mutex // a handler may return while a goroutine of its own receives
	closed bool
	in     chan any // nil until there is something to wait for
	out    chan received
	stop   chan struct{}
}

type received struct {
	err   error
	gone  bool // it has panicked, or its goroutine has exited
	panic *Panic
}

// Receive is source.ReceiveRequest, or the error of ctx, which the handler has, if that ends before native, the
// context of source. The message then belongs to a receive that may still be running.
func (w *RequestWaiter) Receive(ctx, native context.Context, source RequestSource, msg any) error {
	done := ctx.Done()
	if done == nil || done == native.Done() {
		return source.ReceiveRequest(msg)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !w.start(source) {
		return errOver
	}
	select {
	case w.in <- msg:
	case <-done:
		return ctx.Err()
	case <-w.stop:
		return errOver
	}
	select {
	case r := <-w.out:
		switch {
		case r.panic != nil:
			r.panic.raise()
		case r.gone:
			runtime.Goexit()
		}
		return r.err
	case <-done:
		return ctx.Err()
	}
}

// start starts the goroutine that receives, once, and reports whether it is not too late for that.
func (w *RequestWaiter) start(source RequestSource) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.in == nil && !w.closed {
		w.in, w.out, w.stop = make(chan any), make(chan received, 1), make(chan struct{})
		go w.run(source)
	}
	return !w.closed
}

// Close releases what waits. It is to be called once, when the handler has returned.
func (w *RequestWaiter) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.stop != nil {
		close(w.stop)
	}
}

func (w *RequestWaiter) run(source RequestSource) {
	for {
		select {
		case msg := <-w.in:
			w.receive(source, msg)
		case <-w.stop:
			return
		}
	}
}

func (w *RequestWaiter) receive(source RequestSource, msg any) {
	r := received{gone: true}
	defer func() {
		if r.gone {
			if value := recover(); value != nil { // nil: runtime.Goexit, which goes on where the handler receives
				r.panic = asPanic(value)
			}
		}
		w.out <- r
	}()
	r.err = source.ReceiveRequest(msg)
	r.gone = false
}
