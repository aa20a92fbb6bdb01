package errors_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

type valueError struct{ n int }

func (e valueError) Error() string { return fmt.Sprintf("private value %d", e.n) }

var errTarget = errors.New("private target")

func TestRulesAndPolicies(t *testing.T) {
	rules := []errors.Rule{
		errors.RuleIs(errTarget, errors.CodeNotFound, "100% gone"),
		errors.RuleAs[*fs.PathError](errors.CodeUnavailable, "no file"),
		errors.RuleAsFunc(func(e valueError) *errors.Error {
			if e.n == 0 {
				return nil
			}
			return errors.OutOfRange("n is %d", e.n)
		}),
		errors.RuleFunc(func(err error) *errors.Error {
			if err.Error() != "private text" {
				return nil
			}
			return errNoThing
		}),
		errors.RuleIs(errTarget, errors.CodeAborted, "never asked"),
	}
	slow := []errors.Rule{errors.RuleIs(context.DeadlineExceeded, errors.CodeUnavailable, "slow")}
	caused := []errors.Rule{errors.RuleFunc(func(err error) *errors.Error { return errors.Aborted("a").WithCause(err) })}
	path := &fs.PathError{Op: "open", Path: "private", Err: io.EOF}
	own := errors.NotFound("own").WithCause(errTarget)
	native := &stackError{errors.CodeAborted, "native"}
	upstream := errors.FromNative(errors.Native{Original: native, Code: errors.CodeUnauthenticated, Message: "theirs", Upstream: true})
	const server, client = core.SideServer, core.SideClient
	for _, test := range []struct {
		name    string
		opts    *errors.Options
		side    core.Side
		err     error
		code    core.Code
		message string
		log     string // "": the error passes unchanged
	}{
		{"success", nil, server, nil, errors.CodeOK, "", ""},
		{"coded", nil, server, own, errors.CodeNotFound, "own", ""},
		{"coded, wrapped", nil, client, fmt.Errorf("private: %w", own), errors.CodeNotFound, "own", ""},
		{"coded although a rule would match", &errors.Options{Rules: rules[4:]}, server, own, errors.CodeNotFound, "own", ""},
		{"native", &errors.Options{UnknownCode: errors.CodeInternal}, server, fmt.Errorf("w: %w", (&fakeTransport{}).Normalize(native)), errors.CodeAborted, "native", ""},
		{"context", nil, server, fmt.Errorf("private: %w", context.Canceled), errors.CodeCanceled, "the call was canceled", ""},
		{"context by a rule", &errors.Options{Rules: slow}, server, context.DeadlineExceeded, errors.CodeUnavailable, "slow", "unavailable: slow: context deadline exceeded"},

		{"RuleIs", &errors.Options{Rules: rules}, server, fmt.Errorf("w: %w", errTarget), errors.CodeNotFound, "100% gone", "not_found: 100% gone: w: private target"},
		{"RuleAs", &errors.Options{Rules: rules}, client, path, errors.CodeUnavailable, "no file", "unavailable: no file: open private: EOF"},
		{"RuleAsFunc", &errors.Options{Rules: rules}, server, valueError{3}, errors.CodeOutOfRange, "n is 3", "out_of_range: n is 3: private value 3"},
		{"RuleAsFunc declines", &errors.Options{Rules: rules}, server, valueError{0}, errors.CodeUnknown, "unknown error", "unknown: unknown error: private value 0"},
		{"RuleFunc", &errors.Options{Rules: rules}, server, errors.New("private text"), errors.CodeNotFound, "no such thing", "not_found: no such thing: private text"},
		{"RuleFunc that sets the cause", &errors.Options{Rules: caused}, server, io.EOF, errors.CodeAborted, "a", "aborted: a: EOF"},

		{"unknown", nil, server, errors.New("private"), errors.CodeUnknown, "unknown error", "unknown: unknown error: private"},
		{"unknown on a client", &errors.Options{}, client, io.EOF, errors.CodeUnknown, "unknown error", "unknown: unknown error: EOF"},
		{"UnknownCode", &errors.Options{UnknownCode: errors.CodeInternal}, server, io.EOF, errors.CodeInternal, "internal error", "internal: internal error: EOF"},
		{"RevealUnknown", &errors.Options{RevealUnknown: true}, server, errors.New("100%"), errors.CodeUnknown, "100%", "unknown: 100%: 100%"},
		{"RevealUnknown with a code", &errors.Options{RevealUnknown: true, UnknownCode: errors.CodeAborted}, server, io.EOF, errors.CodeAborted, "EOF", "aborted: EOF: EOF"},

		{"upstream passes", nil, server, upstream, errors.CodeUnauthenticated, "theirs", ""},
		{"upstream becomes Internal", &errors.Options{Upstream: errors.UpstreamInternal}, server, fmt.Errorf("w: %w", upstream), errors.CodeInternal, "internal error", "internal: internal error: w: stack says native"},
		{"upstream is what a client wants", &errors.Options{Upstream: errors.UpstreamInternal}, client, upstream, errors.CodeUnauthenticated, "theirs", ""},
		{"upstream as a cause only", &errors.Options{Upstream: errors.UpstreamInternal}, server, errors.Aborted("own").WithCause(upstream), errors.CodeAborted, "own", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := intercept(test.opts, test.side, func() error { return test.err })
			s := errors.Wire(got, convert)
			equal(t, "code", s.Code, test.code)
			equal(t, "message", s.Message, test.message)
			equal(t, "Is", errors.Is(got, test.err), true)
			if test.log == "" {
				equal(t, "error", got, test.err)
			} else {
				equal(t, "log", got.Error(), test.log)
			}
		})
	}
	got := intercept(&errors.Options{Rules: rules}, core.SideServer, func() error { return errors.New("private text") })
	equal(t, "a rule's package variable is matched", errors.Is(got, errNoThing), true)
	equal(t, "and unchanged", errNoThing.Unwrap(), nil)
}

func TestBadConfigurationPanicsAtConstruction(t *testing.T) {
	for want, opts := range map[string]*errors.Options{
		"UnknownCode is code_17":       {UnknownCode: 17},
		"Upstream is 2":                {Upstream: 2},
		"rule 2 of 2 is the zero Rule": {Rules: []errors.Rule{errors.RuleIs(io.EOF, errors.CodeAborted, ""), {}}},
	} {
		mustPanic(t, want, func() { errors.NewInterceptor(opts) })
	}
	mustPanic(t, "RuleIs wants a target without a code, got <nil>", func() { errors.RuleIs(nil, errors.CodeAborted, "") })
	mustPanic(t, "got not_found: no such thing", func() { errors.RuleIs(errNoThing, errors.CodeAborted, "") })
	mustPanic(t, "code ok", func() { errors.RuleIs(io.EOF, errors.CodeOK, "") })
	mustPanic(t, "code_99", func() { errors.RuleAs[valueError](99, "") })
	mustPanic(t, "a rule for *errors.Error", func() { errors.RuleAs[*errors.Error](errors.CodeAborted, "") })
	mustPanic(t, "a rule for core.CodedError", func() { errors.RuleAs[core.CodedError](errors.CodeAborted, "") })
	mustPanic(t, "a rule for errors_test.valueError", func() { errors.RuleAsFunc[valueError](nil) })
	mustPanic(t, "nil function", func() { errors.RuleFunc(nil) })
}

// What the caller does with its slice and struct afterwards changes nothing.
func TestOptionsAreCopied(t *testing.T) {
	opts := &errors.Options{Rules: []errors.Rule{errors.RuleIs(io.EOF, errors.CodeAborted, "")}}
	interceptor := errors.NewInterceptor(opts)
	opts.Rules[0], opts.UnknownCode = errors.Rule{}, 99
	err := interceptor.Intercept(t.Context(), newCall(core.SideServer), func(context.Context, *core.Call) error { return io.EOF })
	equal(t, "code", errors.CodeOf(err), errors.CodeAborted)
}

func TestOnErrorSeesTheOriginalAndMayReplaceIt(t *testing.T) {
	native := &stackError{errors.CodeAborted, "native"}
	for _, test := range []struct {
		name         string
		err, replace error
		code         core.Code
		is           error
	}{
		{"keeps", io.EOF, io.EOF, errors.CodeDataLoss, io.EOF},
		{"keeps by nil", io.EOF, nil, errors.CodeDataLoss, io.EOF},
		{"keeps a coded one by nil", errNoThing, nil, errors.CodeNotFound, errNoThing},
		{"replaces by a coded one", io.EOF, errNoThing, errors.CodeNotFound, errNoThing},
		{"replaces by one that a rule matches", errNoThing, io.EOF, errors.CodeDataLoss, io.EOF},
		{"replaces by one without a code", errNoThing, errTarget, errors.CodeUnknown, errTarget},
		{"replaces by a native one", io.EOF, native, errors.CodeAborted, native},
		{"sees context errors", context.Canceled, errNoThing, errors.CodeNotFound, errNoThing},
	} {
		t.Run(test.name, func(t *testing.T) {
			type key struct{}
			ctx := context.WithValue(t.Context(), key{}, "v")
			call := newCall(core.SideClient)
			err := errors.NewInterceptor(&errors.Options{
				Rules: []errors.Rule{errors.RuleIs(io.EOF, errors.CodeDataLoss, "m")},
				OnError: func(ctx context.Context, seen *core.Call, err error) error {
					equal(t, "context", ctx.Value(key{}), any("v"))
					equal(t, "call", seen, call)
					equal(t, "error before rules", err, test.err)
					return test.replace
				},
			}).Intercept(ctx, call, func(context.Context, *core.Call) error { return test.err })
			equal(t, "code", errors.CodeOf(err), test.code)
			equal(t, "Is", errors.Is(err, test.is), true)
		})
	}
	err := intercept(&errors.Options{OnError: func(context.Context, *core.Call, error) error {
		t.Error("asked about a success")
		return io.EOF
	}}, core.SideServer, func() error { return nil })
	equal(t, "success", err, nil)
}

func TestPanicsBecomeErrors(t *testing.T) {
	native := &stackError{errors.CodeAborted, "native"}
	elsewhere := &core.Panic{Value: "private", Stack: []byte("stack of elsewhere")}
	var typedNil *stackError
	for _, test := range []struct {
		name    string
		value   any
		seen    any // by OnPanic
		code    core.Code
		message string
		log     string
	}{
		{"string", "private", "private", errors.CodeInternal, "internal error", "internal: internal error: panic: private"},
		{"error", errTarget, errTarget, errors.CodeInternal, "internal error", "internal: internal error: panic: private target"},
		{"context error", context.Canceled, context.Canceled, errors.CodeInternal, "internal error", "internal: internal error: panic: context canceled"},
		{"coded", errNoThing, errNoThing, errors.CodeNotFound, "no such thing", "not_found: no such thing"},
		{"native", native, native, errors.CodeAborted, "native", "stack says native"},
		{"carried from elsewhere", elsewhere, "private", errors.CodeInternal, "internal error", "internal: internal error: panic: private"},
		{"coded from elsewhere", &core.Panic{Value: errNoThing}, errNoThing, errors.CodeNotFound, "no such thing", "not_found: no such thing"},
		{"an error that panics itself", typedNil, typedNil, errors.CodeInternal, "internal error", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var order []string
			var stack []byte
			err := intercept(&errors.Options{
				Rules: []errors.Rule{errors.RuleFunc(func(error) *errors.Error { return errors.DataLoss("a rule was asked") })},
				OnPanic: func(_ context.Context, _ *core.Call, value any, s []byte) {
					if order = append(order, "OnPanic"); len(order) == 1 {
						stack = s
						equal(t, "value", value, test.seen)
					}
				},
				OnError: func(_ context.Context, _ *core.Call, err error) error {
					order = append(order, "OnError "+errors.CodeOf(err).String())
					return err
				},
			}, core.SideServer, func() error { panic(test.value) })
			s := errors.Wire(err, convert)
			equal(t, "code", s.Code, test.code)
			equal(t, "message", s.Message, test.message)
			if test.log != "" {
				equal(t, "log", err.Error(), test.log)
			}
			if test.log != "" {
				equal(t, "order", strings.Join(order, ", "), "OnPanic, OnError "+test.code.String())
			}
			if cause, ok := test.seen.(error); ok && test.log != "" {
				equal(t, "Is", errors.Is(err, cause), true)
			}
			if _, carried := test.value.(*core.Panic); !carried && !bytes.Contains(stack, []byte("TestPanicsBecomeErrors")) {
				t.Errorf("the stack is not that of the panic: %s", stack)
			}
			if test.value == any(elsewhere) {
				equal(t, "stack", string(stack), "stack of elsewhere")
			}
		})
	}
	err := intercept(nil, core.SideClient, func() error { panic("private") })
	p, ok := errors.AsType[*core.Panic](err)
	equal(t, "value and stack without OnPanic", ok && p.Value == "private" && len(p.Stack) > 0, true)
}

// net/http knows its own value by identity alone.
func TestAbortHandlerGoesOn(t *testing.T) {
	opts := &errors.Options{
		OnPanic: func(context.Context, *core.Call, any, []byte) { t.Error("OnPanic was asked") },
		OnError: func(context.Context, *core.Call, error) error { t.Error("OnError was asked"); return nil },
	}
	for _, value := range []any{http.ErrAbortHandler, &core.Panic{Value: http.ErrAbortHandler}} {
		func() {
			defer func() { equal(t, "raised", recover(), any(http.ErrAbortHandler)) }()
			_ = intercept(opts, core.SideServer, func() error { panic(value) })
		}()
	}
}

func TestGoexitGoesOn(t *testing.T) {
	returned := make(chan bool)
	go func() {
		defer close(returned)
		_ = intercept(&errors.Options{OnPanic: func(context.Context, *core.Call, any, []byte) { t.Error("asked") }},
			core.SideServer, func() error { runtime.Goexit(); return nil })
		returned <- true
	}()
	equal(t, "the interceptor returned", <-returned, false)
}

func TestPanicsOfHooksBecomeInternal(t *testing.T) {
	for _, test := range []struct {
		name     string
		opts     errors.Options
		run      func() error
		reported int
	}{
		{"OnError", errors.Options{OnError: func(context.Context, *core.Call, error) error { panic("private hook") }},
			func() error { return io.EOF }, 1},
		{"OnError, with a coded error", errors.Options{OnError: func(context.Context, *core.Call, error) error { panic(errNoThing) }},
			func() error { return io.EOF }, 1},
		{"rule", errors.Options{Rules: []errors.Rule{errors.RuleFunc(func(error) *errors.Error { panic("private hook") })}},
			func() error { return io.EOF }, 1},
		{"OnPanic", errors.Options{OnPanic: func(context.Context, *core.Call, any, []byte) { panic("private hook") }},
			func() error { panic(io.EOF) }, 0},
		{"OnPanic, after a coded error", errors.Options{OnPanic: func(context.Context, *core.Call, any, []byte) { panic("private hook") }},
			func() error { panic(errors.Aborted("m").WithCause(io.EOF)) }, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			reported := 0
			if test.opts.OnPanic == nil {
				test.opts.OnPanic = func(context.Context, *core.Call, any, []byte) { reported++ }
			}
			err := intercept(&test.opts, core.SideServer, test.run)
			s := errors.Wire(err, convert)
			equal(t, "code", s.Code, errors.CodeInternal)
			equal(t, "message", s.Message, "internal error")
			equal(t, "what failed first is kept for logs", errors.Is(err, io.EOF), true)
			equal(t, "reported", reported, test.reported)
		})
	}
}

func TestSuccessAllocatesNothing(t *testing.T) {
	interceptor := errors.NewInterceptor(&errors.Options{OnPanic: func(context.Context, *core.Call, any, []byte) {}})
	call, next := newCall(core.SideServer), core.Handler(func(context.Context, *core.Call) error { return nil })
	if n := testing.AllocsPerRun(100, func() { _ = interceptor.Intercept(t.Context(), call, next) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
