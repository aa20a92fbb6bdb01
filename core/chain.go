package core

import (
	"context"
	"fmt"
	"slices"
)

// Handler continues a call: it returns when the RPC is over.
type Handler func(ctx context.Context, call *Call) error

// Interceptor wraps RPCs: all shapes, both sides, every stack. It calls next
// once, or not at all to answer by itself, or several times with attempts ([Call.NewAttempt]).
// It is called by many goroutines at once.
type Interceptor interface {
	Intercept(ctx context.Context, call *Call, next Handler) error
}

// InterceptorFunc is a function that is an [Interceptor].
type InterceptorFunc func(ctx context.Context, call *Call, next Handler) error

// Intercept calls f.
func (f InterceptorFunc) Intercept(ctx context.Context, call *Call, next Handler) error {
	return f(ctx, call, next)
}

// Chain is a list of interceptors, the first one outermost:
//
//	NewChain(a, b):  a before -> b before -> RPC -> b after -> a after
//
// A chain never changes and may be used by many goroutines. It is an [Interceptor] itself: a chain in a
// chain is as good as its interceptors in its place. A chain of none is fine.
type Chain struct {
	links   []Interceptor
	handler Handler
}

// NewChain composes interceptors, once. It panics, naming the position, if one is nil.
func NewChain(interceptors ...Interceptor) *Chain {
	c := &Chain{}
	for i, interceptor := range interceptors {
		if isNil(interceptor) {
			panic(fmt.Sprintf("core: interceptor %d of %d is nil", i+1, len(interceptors)))
		}
		if nested, ok := interceptor.(*Chain); ok {
			c.links = append(c.links, nested.links...)
		} else {
			c.links = append(c.links, interceptor)
		}
	}
	level := int32(0)
	terminal := int32(count(c.links)) + 1 //nolint:gosec // nobody has 2^31 interceptors
	c.handler = compose(c.links, &level, func(ctx context.Context, call *Call) error {
		if err := call.enter(ctx, terminal); err != nil {
			return err
		}
		return call.leave(ctx, terminal, call.invoke(ctx))
	})
	return c
}

// Handler returns the whole chain with the RPC at its end, for adapters. It
// makes nothing anew for a call.
func (c *Chain) Handler() Handler { return c.handler }

// Intercept runs the chain inside another. NewChain does better than this: it
// takes a nested chain apart once, while this composes it for each call.
func (c *Chain) Intercept(ctx context.Context, call *Call, next Handler) error {
	return compose(c.links, nil, next)(ctx, call)
}

// When lets the interceptor see only those calls that the matcher accepts; the
// others go straight on. It panics if either is nil.
func When(matcher Matcher, interceptor Interceptor) Interceptor {
	if matcher == nil {
		panic("core: When of a nil matcher")
	}
	if isNil(interceptor) {
		panic("core: When of a nil interceptor")
	}
	return &when{matcher, NewChain(interceptor)}
}

type when struct {
	match Matcher
	inner *Chain
}

func (w *when) Intercept(ctx context.Context, call *Call, next Handler) error {
	if w.match(call) {
		return w.inner.Intercept(ctx, call, next)
	}
	return next(ctx, call)
}

// compose puts links before next. Each gets a level, by which a second next with
// the same call is noticed; without levels (nil) the next of the whole notices it.
func compose(links []Interceptor, level *int32, next Handler) Handler {
	first := int32(0)
	if level != nil {
		first = *level
		*level += int32(count(links)) //nolint:gosec // as above
	}
	for i, interceptor := range slices.Backward(links) {
		at := int32(0)
		if level != nil {
			at = first + int32(count(links[:i])) //nolint:gosec // as above
		}
		next = link(interceptor, at, level != nil, next)
	}
	return next
}

func link(interceptor Interceptor, at int32, leveled bool, next Handler) Handler {
	if w, ok := interceptor.(*when); ok {
		level := &at
		if !leveled {
			level = nil
		}
		inner := compose(w.inner.links, level, next)
		return func(ctx context.Context, call *Call) error {
			if w.match(call) {
				return inner(ctx, call)
			}
			return next(ctx, call)
		}
	}
	level := at + 1
	if !leveled {
		level = 0
	}
	return func(ctx context.Context, call *Call) error {
		if leveled {
			if err := call.enter(ctx, level); err != nil {
				return err
			}
		} else if hooks := call.hooks.Load(); hooks != nil {
			hooks.bind(ctx)
		}
		return call.leave(ctx, level, call.Normalize(interceptor.Intercept(ctx, call, next)))
	}
}

// count returns the number of levels that links take.
func count(links []Interceptor) int {
	n := 0
	for _, l := range links {
		if w, ok := l.(*when); ok {
			n += count(w.inner.links)
		} else {
			n++
		}
	}
	return n
}

func isNil(interceptor Interceptor) bool {
	switch i := interceptor.(type) {
	case nil:
		return true
	case InterceptorFunc:
		return i == nil
	case *Chain:
		return i == nil
	}
	return false
}
