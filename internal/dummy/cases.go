package dummy

import (
	"context"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

const (
	maxAfter      = 1000
	echoPrefix    = "x-echo-"
	trailerPrefix = "x-trailer-"
)

// DefaultCases returns the special inputs that the package's doc lists.
func DefaultCases() Cases {
	return Cases{
		"fail:":       func(_ context.Context, in *Input) (string, error) { return "", failure(in.Arg) },
		"fail-after:": func(_ context.Context, in *Input) (string, error) { return "", failAfter(in) },
		"plain": func(context.Context, *Input) (string, error) {
			return "", errors.New("the password of the database is hunter2")
		},
		"panic": func(context.Context, *Input) (string, error) {
			panic("the password of the database is hunter2")
		},
		"sleep:": func(ctx context.Context, in *Input) (string, error) {
			return in.Text, sleep(ctx, in.Arg)
		},
		"metadata": func(_ context.Context, in *Input) (string, error) { return in.Text, echoMetadata(in) },
		"metadata-fail:": func(_ context.Context, in *Input) (string, error) {
			if err := echoMetadata(in); err != nil {
				return "", err
			}
			return "", failure(in.Arg)
		},
		"deadline": func(ctx context.Context, _ *Input) (string, error) {
			deadline, ok := ctx.Deadline()
			if !ok {
				return "none", nil
			}
			return strconv.FormatInt(max(0, time.Until(deadline).Milliseconds()), 10), nil
		},
	}
}

// parseCode names what is wrong in part only, because it goes into a header.
func parseCode(name string) (core.Code, error) {
	code, err := core.ParseCode(name)
	if err != nil || !code.IsError() {
		return code, errors.InvalidArgument("unknown code %.64q", name)
	}
	return code, nil
}

// failure is the error for a code's name.
func failure(name string) error {
	code, err := parseCode(name)
	if err != nil {
		return err
	}
	return errors.Newf(code, "dummy failure: %s", name).WithDetails(&errdetails.ErrorInfo{
		Reason: "DUMMY_FAILURE", Domain: "weft.dummy", Metadata: map[string]string{"code": name},
	})
}

func failAfter(in *Input) error {
	count, name, _ := strings.Cut(in.Arg, ":")
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > maxAfter {
		return errors.InvalidArgument("malformed number %.64q: want 0 to %d", count, maxAfter)
	}
	if _, err := parseCode(name); err != nil || !in.Streams() {
		n = 0
	}
	for i := range n {
		if err := in.Send(strconv.Itoa(i)); err != nil {
			return err
		}
	}
	return failure(name)
}

func sleep(ctx context.Context, duration string) error {
	d, err := time.ParseDuration(duration)
	if err != nil || d < 0 {
		return errors.InvalidArgument("malformed duration %.64q", duration)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func echoMetadata(in *Input) error {
	for key, values := range in.RequestMetadata() {
		rest, ok := strings.CutPrefix(key, echoPrefix)
		if !ok {
			continue
		}
		for _, value := range values {
			// What arrives need not be fit to be sent, and the stacks do not agree on what happens then.
			if _, err := core.NewMetadata(key, value); err != nil {
				return err
			}
			if err := in.AddHeader(key, value); err != nil {
				return err
			}
			if err := in.AddTrailer(trailerPrefix+rest, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// Raises is a [Case] that fails with err.
func Raises(err error) Case {
	return func(context.Context, *Input) (string, error) { return "", err }
}

// Panics is a [Case] that panics with value.
func Panics(value any) Case {
	return func(context.Context, *Input) (string, error) { panic(value) }
}
