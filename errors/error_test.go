package errors_test

import (
	"context"
	stderrors "errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

func TestConstructors(t *testing.T) {
	for _, test := range []struct {
		make func(string, ...any) *errors.Error
		code errors.Code
		name string
	}{
		{errors.Canceled, errors.CodeCanceled, "canceled"},
		{errors.Unknown, errors.CodeUnknown, "unknown"},
		{errors.InvalidArgument, errors.CodeInvalidArgument, "invalid_argument"},
		{errors.DeadlineExceeded, errors.CodeDeadlineExceeded, "deadline_exceeded"},
		{errors.NotFound, errors.CodeNotFound, "not_found"},
		{errors.AlreadyExists, errors.CodeAlreadyExists, "already_exists"},
		{errors.PermissionDenied, errors.CodePermissionDenied, "permission_denied"},
		{errors.ResourceExhausted, errors.CodeResourceExhausted, "resource_exhausted"},
		{errors.FailedPrecondition, errors.CodeFailedPrecondition, "failed_precondition"},
		{errors.Aborted, errors.CodeAborted, "aborted"},
		{errors.OutOfRange, errors.CodeOutOfRange, "out_of_range"},
		{errors.Unimplemented, errors.CodeUnimplemented, "unimplemented"},
		{errors.Internal, errors.CodeInternal, "internal"},
		{errors.Unavailable, errors.CodeUnavailable, "unavailable"},
		{errors.DataLoss, errors.CodeDataLoss, "data_loss"},
		{errors.Unauthenticated, errors.CodeUnauthenticated, "unauthenticated"},
	} {
		e := test.make("thing %q of %d%%", "x", 3)
		equal(t, test.name, e.Code(), test.code)
		equal(t, test.name, e.Message(), `thing "x" of 3%`)
		equal(t, test.name, e.Error(), test.name+`: thing "x" of 3%`)
		equal(t, test.name, errors.CodeOf(errors.Join(io.EOF, e)), test.code)
		equal(t, test.name, e.Unwrap(), nil)
		equal(t, test.name, e.Original(), nil)
		equal(t, test.name, e.Metadata(), nil)
		equal(t, test.name, e.Details() == nil, true)
		equal(t, test.name, e.Upstream(), false)
	}
	equal(t, "printf without args", errors.Internal("100%%").Message(), "100%")
	equal(t, "CodeOf nil", errors.CodeOf(nil), errors.CodeOK)
	equal(t, "CodeOf plain", errors.CodeOf(io.EOF), errors.CodeUnknown)
	equal(t, "CodeOf context", errors.CodeOf(context.Canceled), errors.CodeCanceled)
}

func TestNewfRefusesWhatIsNoErrorCode(t *testing.T) {
	mustPanic(t, "code ok", func() { _ = errors.Newf(errors.CodeOK, "x") })
	mustPanic(t, "code_17", func() { _ = errors.Newf(17, "x") })
	equal(t, "code", errors.Newf(16, "x").Code(), errors.CodeUnauthenticated)
}

var errNoThing = errors.NotFound("no such thing")

func TestCopiesMatchWhatTheyWereMadeOf(t *testing.T) {
	detailed := errNoThing.WithDetails(wrapperspb.String("d"))
	whole := detailed.WithMetadata("k", "v").WithCause(io.EOF)
	for _, ancestor := range []error{errNoThing, detailed, whole, io.EOF} {
		equal(t, ancestor.Error(), errors.Is(errors.Join(stderrors.New("x"), whole), ancestor), true)
	}
	equal(t, "the original is no copy of its copy", errors.Is(errNoThing, detailed), false)
	equal(t, "siblings", errors.Is(whole, errNoThing.WithCause(io.EOF)), false)
	equal(t, "same text", errors.Is(whole, errors.NotFound("no such thing")), false)
	equal(t, "nil", errors.Is(whole, nil), false)

	equal(t, "unchanged", errNoThing.Error(), "not_found: no such thing")
	equal(t, "unchanged", len(errNoThing.Details())+errNoThing.Metadata().Len(), 0)
	equal(t, "text", whole.Error(), "not_found: no such thing: EOF")
	equal(t, "details", len(whole.Details()), 1)
	equal(t, "metadata", whole.Metadata().Get("k"), "v")
}

// Two copies of one error do not write into each other.
func TestCopiesShareNothingThatCanBeWritten(t *testing.T) {
	base := errNoThing.WithDetails(wrapperspb.String("a"), wrapperspb.String("b")).WithMetadata("k", "a", "bad key", "")
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			mine := base.WithDetails(wrapperspb.Int64(int64(i))).WithMetadata("k", "b", "bad\n", "").WithCause(io.EOF)
			_ = append(base.Details(), core.Detail{})
			n, ok := errors.DetailOf[*wrapperspb.Int64Value](mine)
			if !ok || n.GetValue() != int64(i) || len(mine.Metadata().Values("k")) != 2 || !errors.Is(mine, base) {
				t.Errorf("copy %d is %v", i, mine)
			}
			_, _ = base.Error(), base.LogValue()
		})
	}
	wait.Wait()
	equal(t, "details", len(base.Details()), 2)
	equal(t, "metadata", len(base.Metadata().Values("k")), 1)
	if err := base.Metadata().Set("k", "c"); errors.CodeOf(err) != errors.CodeFailedPrecondition {
		t.Errorf("metadata of an error was written: %v", err)
	}
}

func TestWithDetails(t *testing.T) {
	msg := &errdetails.ErrorInfo{Reason: "A"}
	packed, err := anypb.New(wrapperspb.String("any"))
	if err != nil {
		t.Fatal(err)
	}
	e := errNoThing.WithDetails(msg, packed)
	msg.Reason, packed.Value[0] = "B", 0xff
	info, ok := errors.DetailOf[*errdetails.ErrorInfo](e)
	equal(t, "serialized at once", ok && info.GetReason() == "A", true)
	text, ok := errors.DetailOf[*wrapperspb.StringValue](e)
	equal(t, "an Any is taken as it is", ok && text.GetValue() == "any", true)
	equal(t, "type URL", e.Details()[0].TypeURL, "type.googleapis.com/google.rpc.ErrorInfo")

	mustPanic(t, "message 2 of 2 is nil", func() { _ = errNoThing.WithDetails(msg, nil) })
	mustPanic(t, "message 1 of 1 is nil", func() { _ = errNoThing.WithDetails((*errdetails.ErrorInfo)(nil)) })
	equal(t, "none", errNoThing.WithDetails().Details() == nil, true)
}

func TestDetailThatCannotBeSerializedIsSaid(t *testing.T) {
	e := errNoThing.WithDetails(wrapperspb.String("\xff"), wrapperspb.String("good"))
	equal(t, "details", len(e.Details()), 1)
	if text := e.Error(); !strings.Contains(text, "(not sent: detail google.protobuf.StringValue: ") {
		t.Errorf("Error does not say so: %s", text)
	}
	equal(t, "public message", e.Message(), "no such thing")
}

func TestWithMetadata(t *testing.T) {
	e := errNoThing.WithMetadata("K", "a", "b-bin", "\xff\x00").WithMetadata("k", "b",
		"grpc-status", "0", "two words", "secret", "newline", "secret\n", "", "secret")
	equal(t, "values", strings.Join(e.Metadata().Values("k"), " "), "a b")
	equal(t, "binary", e.Metadata().Get("B-Bin"), "\xff\x00")
	equal(t, "keys", e.Metadata().Len(), 2)
	for _, want := range []string{`"grpc-status"`, `"two words"`, `"newline"`, "key is empty"} {
		if !strings.Contains(e.Error(), want) {
			t.Errorf("%s is not in %s", want, e)
		}
	}
	if strings.Contains(e.Error(), "secret") {
		t.Errorf("a value is in %s", e)
	}
	equal(t, "only bad pairs", errNoThing.WithMetadata("te", "x").Metadata(), nil)
	equal(t, "no pairs", errNoThing.WithMetadata().Metadata(), nil)
	odd := []string{"k", "v", "k"}
	mustPanic(t, "odd number", func() { _ = errNoThing.WithMetadata(odd...) })
}

func TestMetadataOfUpstreamErrorIsSaidNotToBeSent(t *testing.T) {
	md, err := core.NewMetadata("received", "r")
	if err != nil {
		t.Fatal(err)
	}
	native := &stackError{errors.CodeAborted, "a"}
	e := errors.FromNative(errors.Native{Original: native, Code: native.code, Message: "a", Metadata: md, Upstream: true}).
		WithMetadata("k", "v")
	equal(t, "upstream", e.Upstream(), true)
	equal(t, "metadata", e.Metadata().Get("received")+e.Metadata().Get("k"), "rv")
	equal(t, "text", e.Error(), `stack says a (not sent: metadata "k" of an upstream error)`)
	equal(t, "wire", errors.Wire(e, convert).Metadata, nil)
}

func TestWithCause(t *testing.T) {
	e := errNoThing.WithCause(io.EOF)
	equal(t, "Unwrap", e.Unwrap(), io.EOF)
	twice := e.WithCause(io.ErrClosedPipe).WithCause(nil)
	equal(t, "first", errors.Is(twice, io.EOF), true)
	equal(t, "second", errors.Is(twice, io.ErrClosedPipe), true)
	equal(t, "public message", twice.Message(), "no such thing")
	equal(t, "nil", errNoThing.WithCause(nil).Unwrap(), nil)
	equal(t, "code of the outer one", errors.CodeOf(errors.Internal("x").WithCause(e)), errors.CodeInternal)
	var broken *stackError
	if text := errNoThing.WithCause(broken).Error(); !strings.HasPrefix(text, "not_found: no such thing: ") {
		t.Errorf("text is %q", text)
	}
}

// The bug of returning a nil pointer as an error is neither a success nor a panic.
func TestNilErrorIsInternal(t *testing.T) {
	var e *errors.Error
	status := errors.Wire(e, convert)
	equal(t, "code", status.Code, errors.CodeInternal)
	equal(t, "message", status.Message, "internal error")
	equal(t, "native", status.Native, nil)
	equal(t, "text", e.Error(), "internal: internal error: a nil *errors.Error was returned as an error")
	equal(t, "Is", errors.Is(e, io.EOF), false)
	equal(t, "copy", e.WithCause(io.EOF).WithDetails(wrapperspb.String("d")).WithMetadata("k", "v").Code(), errors.CodeInternal)
	equal(t, "others", e.Upstream() || e.Original() != nil || e.Metadata() != nil || e.Details() != nil, false)
	_ = e.LogValue()
}

func TestLogValueHasKeysNeverValues(t *testing.T) {
	e := errors.NotFound("no thing").WithCause(io.EOF).WithMetadata("token", "secret", "te", "").
		WithDetails(&errdetails.ErrorInfo{Reason: "secret"}, wrapperspb.String("secret"))
	var out strings.Builder
	slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})).Info("m", "err", e)
	equal(t, "log", out.String(), `{"level":"INFO","msg":"m","err":{"code":"not_found","message":"no thing","cause":"EOF",`+
		`"details":["google.rpc.ErrorInfo","google.protobuf.StringValue"],"metadata":["token"],`+
		`"not_sent":["metadata key \"te\" belongs to the protocol"]}}`+"\n")
	equal(t, "what is not there", len(errNoThing.LogValue().Group()), 2)
}

func TestDetailsOfAnyError(t *testing.T) {
	retry := &errdetails.RetryInfo{}
	first := errors.Aborted("a").WithDetails(
		&anypb.Any{TypeUrl: "example.com/x/google.rpc.RetryInfo", Value: []byte{0xff}}, // cannot be decoded
		wrapperspb.String("s"), retry)
	second := errors.Aborted("b").WithDetails(wrapperspb.Int64(1))
	err := errors.Join(io.EOF, first, second)
	equal(t, "all of the first coded error", len(errors.Details(err)), 3)
	got, ok := errors.DetailOf[*errdetails.RetryInfo](err)
	equal(t, "the first that can be decoded", ok && proto.Equal(got, retry), true)
	_, ok = errors.DetailOf[*wrapperspb.Int64Value](err)
	equal(t, "of the second coded error", ok, false)
	missing, ok := errors.DetailOf[*errdetails.ErrorInfo](err)
	equal(t, "missing", ok || missing != nil, false)
	for _, none := range []error{nil, io.EOF, foreignError{}} {
		equal(t, "without details", errors.Details(none) == nil, true)
	}
	mustPanic(t, "not an interface", func() { errors.DetailOf[proto.Message](err) })

	list := errors.Details(err)
	list[1].TypeUrl = "changed"
	equal(t, "the caller's own", errors.Details(err)[1].GetTypeUrl(), "type.googleapis.com/google.protobuf.StringValue")
}
