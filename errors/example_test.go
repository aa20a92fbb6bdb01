package errors_test

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// The message is for the peer, the cause is for logs and for Is.
func ExampleNotFound() {
	cause := &fs.PathError{Op: "open", Path: "/data/things/7", Err: fs.ErrNotExist}
	err := errors.NotFound("thing %q does not exist", "7").WithCause(cause)

	fmt.Println(errors.CodeOf(err))
	fmt.Println(err.Message())
	fmt.Println(err)
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	// Output:
	// not_found
	// thing "7" does not exist
	// not_found: thing "7" does not exist: open /data/things/7: file does not exist
	// true
}

// A text from elsewhere goes in by "%s", as for every printf.
func ExampleNewf() {
	code, text := errors.CodeAborted, "100% taken"
	fmt.Println(errors.Newf(code, "%s", text))
	// Output: aborted: 100% taken
}

var ErrSoldOut = errors.ResourceExhausted("sold out")

// Copies of a package variable still match it.
func ExampleError_WithMetadata() {
	err := ErrSoldOut.WithMetadata("retry-after", "60")
	fmt.Println(errors.Is(err, ErrSoldOut), err.Metadata().Get("Retry-After"))
	// Output: true 60
}

func ExampleDetailOf() {
	var err error = errors.Unavailable("busy").WithDetails(
		&errdetails.RetryInfo{RetryDelay: durationpb.New(3 * time.Second)})
	err = fmt.Errorf("ordering: %w", err)

	if retry, ok := errors.DetailOf[*errdetails.RetryInfo](err); ok {
		fmt.Println("retry after", retry.GetRetryDelay().AsDuration())
	}
	// Output: retry after 3s
}

// Logs get the cause, the types of details and the keys of metadata: no values.
func ExampleError_LogValue() {
	err := errors.PermissionDenied("not yours").
		WithCause(errors.New("user 7 is not in group 9")).
		WithMetadata("token", "secret").
		WithDetails(&errdetails.ErrorInfo{Reason: "secret"})

	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	logger.Error("call failed", "err", err)
	// Output: level=ERROR msg="call failed" err.code=permission_denied err.message="not yours" err.cause="user 7 is not in group 9" err.details=[google.rpc.ErrorInfo] err.metadata=[token]
}

// An adapter puts the interceptor around each RPC. Here the handler is called by hand.
func ExampleNewInterceptor() {
	interceptor := errors.NewInterceptor(&errors.Options{
		Rules: []errors.Rule{
			errors.RuleIs(fs.ErrNotExist, errors.CodeNotFound, "no such thing"),
			errors.RuleAs[*fs.PathError](errors.CodeUnavailable, "storage does not answer"),
		},
		OnError: func(_ context.Context, call *core.Call, err error) error {
			fmt.Printf("%s failed: %v\n", call.Method().Name(), err)
			return err
		},
		OnPanic: func(_ context.Context, call *core.Call, value any, _ []byte) {
			fmt.Printf("%s panicked: %v\n", call.Method().Name(), value)
		},
	})
	for _, handler := range []core.Handler{
		func(context.Context, *core.Call) error { return fmt.Errorf("reading /data/7: %w", fs.ErrNotExist) },
		func(context.Context, *core.Call) error { return errors.New("password of the database is wrong") },
		func(context.Context, *core.Call) error { panic("index out of range") },
	} {
		err := interceptor.Intercept(context.Background(), newCall(core.SideServer), handler)
		status := errors.Wire(err, nil)
		fmt.Printf("the peer sees %s: %s\n", status.Code, status.Message)
	}
	// Output:
	// GetThing failed: reading /data/7: file does not exist
	// the peer sees not_found: no such thing
	// GetThing failed: password of the database is wrong
	// the peer sees unknown: unknown error
	// GetThing panicked: index out of range
	// GetThing failed: internal: internal error: panic: index out of range
	// the peer sees internal: internal error
}

// A rule may read your own error to say something useful.
func ExampleRuleAsFunc() {
	rule := errors.RuleAsFunc(func(err *fs.PathError) *errors.Error {
		return errors.FailedPrecondition("cannot %s", err.Op)
	})
	interceptor := errors.NewInterceptor(&errors.Options{Rules: []errors.Rule{rule}})
	err := interceptor.Intercept(context.Background(), newCall(core.SideServer), func(context.Context, *core.Call) error {
		return &fs.PathError{Op: "rename", Path: "/secret", Err: fs.ErrExist}
	})
	fmt.Println(err)
	fmt.Println("the peer sees:", errors.Wire(err, nil).Message)
	// Output:
	// failed_precondition: cannot rename: rename /secret: file already exists
	// the peer sees: cannot rename
}
