// Package fallback makes clients answer by themselves when a call has failed: from a cache, with a default, from another service.
package fallback

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// Func answers in place of a call that has failed with err. It returns a message of the method's response type, nil
// to leave err as it is, or an error that takes its place. The context is that of the call and may have ended. It is called by
// many goroutines at once; the message becomes the application's, so that each call needs its own.
type Func func(ctx context.Context, call *core.Call, err error) (proto.Message, error)

// Options for [New]. The zero value is right.
type Options struct {
	// Codes are the failures to answer: by default UNAVAILABLE, DEADLINE_EXCEEDED and RESOURCE_EXHAUSTED, which say
	// nothing of the request. CANCELED is never answered when it was the application that canceled.
	Codes []core.Code
	// Methods selects the calls to answer, by default all whose shape has one response.
	Methods core.Matcher
}

// New returns an interceptor for clients that asks answer when a call has failed with one of the
// codes. On servers, and on calls that stream responses, of which the application may have some already, it does nothing.
//
// The application gets the answer as if the server had sent it, interceptors outside see a success, and hooks outside see the
// message. On connect clients its Go type must be known: from an earlier response, or by
// connectx.RegisterResponse.
//
// It stands outside of retry and breaker: then it answers when they have given up. New panics if answer is
// nil, and returns an error if a code is not one of the sixteen errors.
func New(answer Func, opts *Options) (core.Interceptor, error) {
	if answer == nil {
		panic("fallback: New of a nil answer")
	}
	f := &fallback{answer: answer}
	if opts != nil {
		f.Options = *opts
	}
	f.Codes = slices.Clone(f.Codes)
	for _, code := range f.Codes {
		if !code.IsError() {
			return nil, fmt.Errorf("fallback: Codes has %s, which is not the code of an error", code)
		}
	}
	if len(f.Codes) == 0 {
		f.Codes = []core.Code{core.CodeUnavailable, core.CodeDeadlineExceeded, core.CodeResourceExhausted}
	}
	return f, nil
}

type fallback struct {
	Options

	answer Func
}

// Intercept implements [core.Interceptor].
func (f *fallback) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	if call.Side() != core.SideClient || call.Shape().ServerStreams() || f.Methods != nil && !f.Methods(call) {
		return next(ctx, call)
	}
	err := next(ctx, call)
	if err == nil || !slices.Contains(f.Codes, core.CodeOf(err)) || errors.Is(ctx.Err(), context.Canceled) {
		return err
	}
	msg, problem := f.answer(ctx, call, err)
	switch {
	case problem != nil:
		return problem
	case isNil(msg):
		return err
	}
	if problem := call.SetResponse(msg); problem != nil {
		return problem
	}
	return nil
}

// isNil takes a nil pointer for what it is, in whatever interface.
func isNil(msg proto.Message) bool {
	return msg == nil || reflect.ValueOf(msg).Kind() == reflect.Pointer && reflect.ValueOf(msg).IsNil()
}
