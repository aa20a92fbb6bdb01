package errors

import (
	"context"
	stderrors "errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"

	"github.com/rpcweft/weft/core"
)

// Options say how [NewInterceptor] turns errors into codes. The zero value is safe:
// it hides what has no code. The functions are called by many goroutines at once.
type Options struct {
	// Rules give errors of your own a code. The first one that matches decides.
	Rules []Rule
	// UnknownCode is the code of errors without one. Zero means CodeUnknown.
	UnknownCode Code
	// RevealUnknown sends the text of errors without a code to the peer, instead of a fixed one.
	RevealUnknown bool
	// Upstream says what becomes, on servers, of errors received from a further server.
	Upstream UpstreamPolicy
	// OnError sees each call that failed, panics included, with the error as it was before rules and
	// policies. What it returns takes the error's place and goes through them; nil keeps the
	// error, because a failure cannot become a success here.
	OnError func(ctx context.Context, call *core.Call, err error) error
	// OnPanic sees each panic that was caught, with its stack, before OnError does.
	OnPanic func(ctx context.Context, call *core.Call, value any, stack []byte)
}

// UpstreamPolicy says what a server does with an error that it received as a client
// of a further server. Its metadata is never sent on.
type UpstreamPolicy uint8

// The policies.
const (
	// UpstreamPass sends code, message and details on.
	UpstreamPass UpstreamPolicy = iota
	// UpstreamInternal sends Internal with a fixed text.
	UpstreamInternal
)

// NewInterceptor returns the interceptor that turns what goes wrong into codes, on
// servers and clients. Nil options are the zero Options. It belongs first in a chain: it does not catch what
// interceptors outside of it do.
//
//   - An error with a code, a stack's own included, passes unchanged (but see Options.Upstream).
//   - An error without one gets that of the first rule that matches. Rules come before context errors,
//     so that they can tell a slow database from the caller's deadline.
//   - A context error that no rule matches passes unchanged; its code is known.
//   - Any other error gets UnknownCode and a fixed text.
//   - A panic becomes Internal with a fixed text, or the coded error that it was raised with.
//     [AsType] of *core.Panic finds value and stack in that Internal. [http.ErrAbortHandler] is raised again, and
//     [runtime.Goexit] goes on.
//
// What the error was becomes the cause: Is and As still find it, logs show it, the
// peer does not see it. A panic in one of the functions of the options becomes Internal too.
//
// NewInterceptor panics if UnknownCode or Upstream is out of range, or a rule is the zero Rule.
func NewInterceptor(opts *Options) core.Interceptor {
	s := &statuses{}
	if opts != nil {
		s.Options = *opts
	}
	if s.UnknownCode == CodeOK {
		s.UnknownCode = CodeUnknown
	}
	if !s.UnknownCode.IsError() {
		panic(fmt.Sprintf("errors: Options.UnknownCode is %s, which no error has", s.UnknownCode))
	}
	if s.Upstream > UpstreamInternal {
		panic(fmt.Sprintf("errors: Options.Upstream is %d, which is no policy", s.Upstream))
	}
	s.Rules = slices.Clone(s.Rules)
	for i, rule := range s.Rules {
		if rule.convert == nil {
			panic(fmt.Sprintf("errors: rule %d of %d is the zero Rule: make it by RuleIs, RuleAs, RuleAsFunc or RuleFunc", i+1, len(s.Rules)))
		}
	}
	return s
}

type statuses struct{ Options }

// Intercept implements [core.Interceptor].
func (s *statuses) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	p, err := run(ctx, call, next)
	if p == nil && err == nil {
		return nil
	}
	return s.settle(ctx, call, p, err)
}

// run calls next and returns the panic that it ended with, if it did.
func run(ctx context.Context, call *core.Call, next core.Handler) (p *core.Panic, err error) {
	defer func() { p = caught(recover()) }()
	return nil, next(ctx, call)
}

// settle turns a panic or an error into what the interceptor returns. So does it with a panic of
// a function of the options.
func (s *statuses) settle(ctx context.Context, call *core.Call, p *core.Panic, err error) (settled error) {
	defer func() {
		if p := caught(recover()); p != nil {
			settled = s.report(ctx, call, p, internal(p).WithCause(err))
		}
	}()
	if p != nil {
		plain := internal(p)
		//nolint:errorlint // identity is the point
		if err = s.report(ctx, call, p, plain); err == error(plain) {
			if coded := call.Normalize(p.Unwrap()); core.FindCoded(coded, nil) != nil {
				err = coded
			}
		}
	}
	if s.OnError != nil {
		if replaced := s.OnError(ctx, call, err); replaced != nil {
			err = call.Normalize(replaced)
		}
	}
	if coded := core.FindCoded(err, nil); coded != nil {
		if s.Upstream == UpstreamInternal && call.Side() == core.SideServer && isUpstream(coded) {
			return fixed(CodeInternal).WithCause(err)
		}
		return err
	}
	for _, rule := range s.Rules {
		if e := rule.convert(err); e != nil {
			if stderrors.Is(e, err) {
				return e
			}
			return e.WithCause(err)
		}
	}
	switch {
	case CodeOf(err) != CodeUnknown:
		return err
	case s.RevealUnknown:
		return Newf(s.UnknownCode, "%s", err.Error()).WithCause(err)
	}
	return fixed(s.UnknownCode).WithCause(err)
}

// report tells OnPanic and returns err, or Internal if OnPanic panics itself.
func (s *statuses) report(ctx context.Context, call *core.Call, p *core.Panic, err error) (result error) {
	if s.OnPanic == nil {
		return err
	}
	defer func() {
		if second := caught(recover()); second != nil {
			result = internal(second).WithCause(err)
		}
	}()
	s.OnPanic(ctx, call, p.Value, p.Stack)
	return err
}

// caught makes a Panic of what recover returned, nil of nil. net/http knows its own
// value only by identity.
func caught(value any) *core.Panic {
	p, ok := value.(*core.Panic)
	if !ok && value != nil {
		p = &core.Panic{Value: value, Stack: debug.Stack()}
	}
	if p != nil && p.Value == any(http.ErrAbortHandler) {
		panic(p.Value)
	}
	return p
}

func internal(p *core.Panic) *Error {
	return fixed(CodeInternal).WithCause(&panicked{p, fmt.Sprintf("panic: %v", p.Value)})
}

func fixed(code Code) *Error { return Newf(code, "%s", core.PublicMessage(code)) }

// panicked is a panic as the cause of an error: without the stack in its text.
type panicked struct {
	panic *core.Panic
	text  string
}

func (p *panicked) Error() string { return p.text }
func (p *panicked) Unwrap() error { return p.panic }
