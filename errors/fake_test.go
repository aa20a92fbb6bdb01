package errors_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// stackError is the error type of a stack that does not exist.
type stackError struct {
	code core.Code
	text string
}

func (e *stackError) Error() string { return "stack says " + e.text }

// convert is what an adapter of that stack gives to Wire.
func convert(err error) core.CodedError {
	//nolint:errorlint // FindCoded walks the tree
	if native, ok := err.(*stackError); ok {
		return errors.FromNative(errors.Native{Original: native, Code: native.code, Message: native.text})
	}
	return nil
}

// fakeTransport is the stack of a call that never leaves the test.
type fakeTransport struct{ core.Call }

func (*fakeTransport) Invoke(context.Context, *core.Call) error        { return nil }
func (*fakeTransport) Metadata(core.MetadataKind) (m core.RawMetadata) { return m }
func (*fakeTransport) Peer() (p core.Peer)                             { return p }
func (*fakeTransport) Describe() (d core.Description)                  { return d }
func (*fakeTransport) HTTPMethod() string                              { return "POST" }
func (*fakeTransport) NewAttempt(*core.Call) *core.Call                { return nil }
func (*fakeTransport) Clone(msg any) (any, int)                        { return msg, 0 }

func (*fakeTransport) Normalize(err error) error {
	coded := core.FindCoded(err, convert)
	native, ok := coded.(*errors.Error)
	if !ok || native.Original() == nil {
		return err
	}
	//nolint:errorlint // a second pass changes nothing
	if already, ok := err.(*errors.Error); ok {
		return already
	}
	return errors.FromNative(errors.Native{Original: native.Original(), Whole: err, Code: native.Code(), Message: native.Message()})
}

func newCall(side core.Side) *core.Call {
	method, err := core.ParseMethod("/things.v1.ThingService/GetThing")
	if err != nil {
		panic(err)
	}
	t := &fakeTransport{}
	t.Init(t, method, side, core.ShapeUnary, core.ProtocolGRPC, nil)
	return &t.Call
}

// intercept sends a call through the interceptor to a handler that does what run does.
func intercept(opts *errors.Options, side core.Side, run func() error) error {
	handler := func(context.Context, *core.Call) error { return run() }
	return errors.NewInterceptor(opts).Intercept(context.Background(), newCall(side), handler)
}

func mustPanic(t *testing.T, want string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if got := fmt.Sprint(recover()); !strings.Contains(got, want) {
			t.Errorf("panicked with %q, want %q in it", got, want)
		}
	}()
	f()
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
