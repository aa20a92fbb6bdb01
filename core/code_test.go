package core_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/rpcweft/weft/core"
)

// codedError is somebody's own.
type codedError core.Code

func (e codedError) Error() string   { return "for logs" }
func (e codedError) Code() core.Code { return core.Code(e) }
func (codedError) Message() string   { return "for the peer" }

// disguised shows a coded error by its As method only.
type disguised struct{ coded core.CodedError }

func (disguised) Error() string { return "disguised" }

func (d disguised) As(target any) bool {
	p, ok := target.(*core.CodedError)
	if ok && d.coded != nil {
		*p = d.coded
	}
	return ok && d.coded != nil
}

// silly claims to be what it is not.
type silly struct{ error }

func (silly) As(any) bool     { return true }
func (s silly) Unwrap() error { return s.error }

// CodeOf follows the order of errors.As: the two must always agree on which coded error is first.
func TestCodeOf(t *testing.T) {
	aborted, lost := codedError(core.CodeAborted), codedError(core.CodeDataLoss)
	wrap := func(err error) error { return fmt.Errorf("wrapped: %w", err) }
	for name, test := range map[string]struct {
		err  error
		want core.Code
	}{
		"nil":                        {nil, core.CodeOK},
		"plain":                      {io.EOF, core.CodeUnknown},
		"coded":                      {aborted, core.CodeAborted},
		"wrapped":                    {wrap(wrap(aborted)), core.CodeAborted},
		"joined":                     {errors.Join(io.EOF, wrap(aborted), lost), core.CodeAborted},
		"two wrapped":                {fmt.Errorf("%w and %w", lost, aborted), core.CodeDataLoss},
		"depth first":                {errors.Join(wrap(errors.Join(io.EOF, lost)), aborted), core.CodeDataLoss},
		"disguised":                  {wrap(disguised{aborted}), core.CodeAborted},
		"disguised as nothing":       {errors.Join(disguised{}, lost), core.CodeDataLoss},
		"canceled":                   {context.Canceled, core.CodeCanceled},
		"canceled, wrapped":          {wrap(context.Canceled), core.CodeCanceled},
		"deadline":                   {wrap(context.DeadlineExceeded), core.CodeDeadlineExceeded},
		"deadline of os":             {wrap(os.ErrDeadlineExceeded), core.CodeDeadlineExceeded},
		"both ends of a context":     {errors.Join(context.DeadlineExceeded, context.Canceled), core.CodeCanceled},
		"coded behind a context":     {errors.Join(context.Canceled, aborted), core.CodeAborted},
		"a context behind coded":     {errors.Join(aborted, context.Canceled), core.CodeAborted},
		"code OK":                    {codedError(core.CodeOK), core.CodeInternal},
		"code out of range":          {wrap(codedError(17)), core.CodeInternal},
		"code far out of range":      {codedError(1 << 31), core.CodeInternal},
		"OK before a valid one":      {errors.Join(codedError(0), aborted), core.CodeInternal},
		"claims of a silly As":       {silly{io.EOF}, core.CodeUnknown},
		"silly, but something is in": {silly{aborted}, core.CodeAborted},
	} {
		t.Run(name, func(t *testing.T) {
			wantText(t, "code", core.CodeOf(test.err), test.want)
			if first := core.CodedError(nil); test.err != nil && errors.As(test.err, &first) && first != nil {
				wantText(t, "first", core.FindCoded(test.err, nil), first)
				wantText(t, "wire", core.WireCode(first), test.want)
			}
		})
	}
}

// An adapter is asked about each error before it is taken for what it is.
func TestFindCodedAsksTheAdapterFirst(t *testing.T) {
	convert := func(err error) core.CodedError {
		if err == io.EOF { //nolint:errorlint // FindCoded walks
			return codedError(core.CodeOutOfRange)
		}
		return nil
	}
	for _, err := range []error{io.EOF, fmt.Errorf("%w", io.EOF), errors.Join(errors.New(""), io.EOF, codedError(1)), disguised{codedError(core.CodeOutOfRange)}} {
		wantText(t, "found", core.FindCoded(err, convert), core.CodedError(codedError(core.CodeOutOfRange)))
	}
	wantText(t, "the first", core.FindCoded(errors.Join(codedError(1), io.EOF), convert), core.CodedError(codedError(1)))
	wantText(t, "none", core.FindCoded(errors.New(""), convert), nil)
	wantText(t, "of nil", core.FindCoded(nil, convert), nil)
}

func TestPublicMessagesAreFixed(t *testing.T) {
	for code, want := range map[core.Code]string{
		core.CodeCanceled: "the call was canceled", core.CodeDeadlineExceeded: "the deadline of the call has passed",
		core.CodeInternal: "internal error", core.CodeUnknown: "unknown error",
	} {
		wantText(t, code.String(), core.PublicMessage(code), want)
	}
}

func TestCodesHaveNames(t *testing.T) {
	for code := range core.Code(20) {
		valid := code <= core.CodeUnauthenticated
		wantText(t, "IsError of "+code.String(), code.IsError(), valid && code != core.CodeOK)
		parsed, err := core.ParseCode(code.String())
		if (err == nil) != valid || valid && parsed != code {
			t.Errorf("ParseCode of %s: %v, %v", code, parsed, err)
		}
		raw, err := json.Marshal(code)
		if (err == nil) != valid || valid && string(raw) != `"`+code.String()+`"` {
			t.Errorf("JSON of %d: %s, %v", code, raw, err)
		}
		if back := core.Code(99); valid && (json.Unmarshal(raw, &back) != nil || back != code) {
			t.Errorf("JSON of %d comes back as %d", code, back)
		}
	}
	wantText(t, "out of range", core.Code(1<<31).String(), "code_2147483648")
	unchanged := core.CodeAborted
	for _, name := range []string{"", "NOT_FOUND", "code_17", "cancelled", "5"} {
		if err := unchanged.UnmarshalText([]byte(name)); err == nil || unchanged != core.CodeAborted {
			t.Errorf("%q gives %v, %v", name, unchanged, err)
		}
	}
}
