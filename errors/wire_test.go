package errors_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"testing"

	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// foreignError is somebody else's coded error.
type foreignError struct {
	code    core.Code
	message string
}

func (foreignError) Error() string     { return "for logs" }
func (e foreignError) Code() core.Code { return e.code }
func (e foreignError) Message() string { return e.message }

func TestWire(t *testing.T) {
	native := &stackError{errors.CodeAborted, "native"}
	zero := &stackError{errors.CodeOK, "zero"}
	garbled := &stackError{errors.CodeAborted, "\xff"}
	foreign := errors.FromNative(errors.Native{Original: io.EOF, Code: errors.CodeDataLoss, Message: "m"})
	received := errors.FromNative(errors.Native{Original: native, Code: errors.CodeAborted, Message: "m", Upstream: true})
	own := errors.NotFound("own").WithCause(io.EOF)
	for _, test := range []struct {
		name    string
		err     error
		code    core.Code
		message string
		native  error
	}{
		{"nil", nil, errors.CodeOK, "", nil},
		{"own", own, errors.CodeNotFound, "own", nil},
		{"own, wrapped", fmt.Errorf("private: %w", own), errors.CodeNotFound, "own", nil},
		{"own before native", errors.Join(io.EOF, own, native), errors.CodeNotFound, "own", nil},
		{"native before own", errors.Join(io.EOF, native, own), errors.CodeAborted, "native", native},
		{"native", native, errors.CodeAborted, "native", native},
		{"native, wrapped", fmt.Errorf("private: %w", native), errors.CodeAborted, "native", native},
		{"native of another stack", foreign, errors.CodeDataLoss, "m", io.EOF},
		{"native with code OK", zero, errors.CodeInternal, "zero", nil},
		{"native with invalid text", garbled, errors.CodeAborted, "\uFFFD", nil},
		{"native from upstream", received, errors.CodeAborted, "m", nil},
		{"native with another cause", foreign.WithCause(io.ErrClosedPipe), errors.CodeDataLoss, "m", io.EOF},
		{"native with details", foreign.WithDetails(wrapperspb.String("")), errors.CodeDataLoss, "m", nil},
		{"native with metadata", foreign.WithMetadata("k", "v"), errors.CodeDataLoss, "m", nil},
		{"coded", foreignError{errors.CodeAborted, "m"}, errors.CodeAborted, "m", nil},
		{"coded with OK", foreignError{errors.CodeOK, "m"}, errors.CodeInternal, "m", nil},
		{"coded out of range", foreignError{17, "m"}, errors.CodeInternal, "m", nil},
		{"invalid UTF-8", errors.Aborted("a\xffb"), errors.CodeAborted, "a\uFFFDb", nil},
		{"canceled", fmt.Errorf("private: %w", context.Canceled), errors.CodeCanceled, "the call was canceled", nil},
		{"deadline", context.DeadlineExceeded, errors.CodeDeadlineExceeded, "the deadline of the call has passed", nil},
		{"os deadline", os.ErrDeadlineExceeded, errors.CodeDeadlineExceeded, "the deadline of the call has passed", nil},
		{"plain", errors.New("private"), errors.CodeUnknown, "unknown error", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := errors.Wire(test.err, convert)
			equal(t, "code", s.Code, test.code)
			equal(t, "code that CodeOf promised", s.Code, errors.CodeOf((&fakeTransport{}).Normalize(test.err)))
			equal(t, "message", s.Message, test.message)
			equal(t, "native", s.Native, test.native)
			equal(t, "coded", s.Coded == nil, core.FindCoded(test.err, convert) == nil)
		})
	}
}

func TestWireSendsDetailsAndMetadata(t *testing.T) {
	e := errors.NotFound("m").WithDetails(wrapperspb.String("d")).WithMetadata("k", "v")
	s := errors.Wire(fmt.Errorf("private: %w", e), nil)
	equal(t, "metadata", s.Metadata.Get("k"), "v")
	equal(t, "details", len(s.Details), 1)
	equal(t, "detail", s.Details[0].MessageIs(&wrapperspb.StringValue{}), true)
	equal(t, "coded", s.Coded, core.CodedError(e))
	bare := errors.Wire(foreignError{code: errors.CodeAborted}, nil)
	equal(t, "none", bare.Metadata == nil && bare.Details == nil, true)
}

func TestFromNative(t *testing.T) {
	native := &stackError{errors.CodeAborted, "native"}
	whole := fmt.Errorf("whole: %w", native)
	calls := 0
	e := errors.FromNative(errors.Native{
		Original: native, Whole: whole, Code: native.code, Message: native.text,
		Details: func() []*anypb.Any { calls++; return []*anypb.Any{{TypeUrl: "x/google.protobuf.StringValue"}} },
	})
	equal(t, "text", e.Error(), "whole: stack says native")
	equal(t, "Unwrap", e.Unwrap(), whole)
	equal(t, "Original", e.Original(), error(native))
	equal(t, "Is", errors.Is(e, native) && errors.Is(e, whole), true)
	equal(t, "details nobody asked for", calls, 0)
	_, ok := errors.DetailOf[*wrapperspb.StringValue](e)
	equal(t, "details", ok, true)

	caused := e.WithCause(io.EOF)
	equal(t, "text with a cause", caused.Error(), "whole: stack says native: EOF")
	equal(t, "Is with a cause", errors.Is(caused, native) && errors.Is(caused, io.EOF) && errors.Is(caused, e), true)
	more := e.WithDetails(wrapperspb.Int64(1))
	equal(t, "details of the copy", len(more.Details()), 2)
	equal(t, "original of the copy", more.Original(), nil)
	equal(t, "Is of the copy", errors.Is(more, native), true)

	equal(t, "whole by default", errors.FromNative(errors.Native{Original: native}).Unwrap(), error(native))
	equal(t, "code OK", errors.CodeOf(errors.FromNative(errors.Native{Original: native})), errors.CodeInternal)
	mustPanic(t, "no error", func() { _ = errors.FromNative(errors.Native{Code: errors.CodeAborted}) })
}
