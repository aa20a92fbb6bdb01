package dummy

import (
	"context"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

var shapes = []core.Shape{core.ShapeUnary, core.ShapeClientStream, core.ShapeServerStream, core.ShapeBidiStream}

// fake is a wire without a network.
type fake struct {
	md              map[string][]string
	outputs         []string
	header, trailer []string
}

func (f *fake) request() map[string][]string { return f.md }

func (f *fake) addHeader(key, value string) error {
	f.header = append(f.header, key+"="+value)
	return nil
}

func (f *fake) addTrailer(key, value string) error {
	f.trailer = append(f.trailer, key+"="+value)
	return nil
}

func (f *fake) call(ctx context.Context, s *Service, shape core.Shape, inputs ...string) error {
	return s.serve(ctx, shape, wire{
		receive: func() (string, error) {
			if len(inputs) == 0 {
				return "", fmt.Errorf("wrapped as connect does: %w", io.EOF)
			}
			input := inputs[0]
			inputs = inputs[1:]
			return input, nil
		},
		send: func(output string) error {
			f.outputs = append(f.outputs, output)
			return nil
		},
		metadata: f,
	})
}

func TestTheServiceEchoesAsTheCommentOfEachMethodSays(t *testing.T) {
	for shape, test := range map[core.Shape]struct{ inputs, want []string }{
		core.ShapeUnary:        {[]string{"héllo"}, []string{"héllo"}},
		core.ShapeClientStream: {[]string{"a", "", "bc"}, []string{"abc"}},
		core.ShapeServerStream: {[]string{"hé界"}, []string{"h", "é", "界"}},
		core.ShapeBidiStream:   {[]string{"a", "", "bc"}, []string{"a", "", "bc"}},
	} {
		var f fake
		if err := f.call(t.Context(), New(nil), shape, test.inputs...); err != nil || !reflect.DeepEqual(f.outputs, test.want) {
			t.Errorf("%s: got %q, %v, want %q", shape, f.outputs, err, test.want)
		}
	}
	for _, shape := range shapes[:2] {
		var f fake
		if err := f.call(t.Context(), New(nil), shape, ""); err != nil || !reflect.DeepEqual(f.outputs, []string{""}) {
			t.Errorf("%s: an empty input must give one empty output, got %q, %v", shape, f.outputs, err)
		}
	}
}

func TestASpecialInputActsInEachMethod(t *testing.T) {
	stop := errors.Aborted("stop")
	extra := Cases{
		"answer": func(context.Context, *Input) (string, error) { return "42", nil },
		"fail:me": func(_ context.Context, in *Input) (string, error) {
			return fmt.Sprint(in.Count, in.Arg), nil
		},
		"count:": func(_ context.Context, in *Input) (string, error) { return fmt.Sprint(in.Count, in.Arg), nil },
		"stop":   func(context.Context, *Input) (string, error) { return "", stop },
	}
	service := New(extra)
	for _, test := range []struct {
		shape        core.Shape
		inputs, want []string
	}{
		{core.ShapeUnary, []string{"answer"}, []string{"42"}},
		{core.ShapeServerStream, []string{"answer"}, []string{"42"}},
		{core.ShapeClientStream, []string{"a", "answer", "b"}, []string{"a42b"}},
		{core.ShapeBidiStream, []string{"a", "answer", "b"}, []string{"a", "42", "b"}},
		{core.ShapeBidiStream, []string{"a", "fail:me", "count:x:y", "count"}, []string{"a", "2", "3x:y", "count"}},
		{core.ShapeUnary, []string{"deadline"}, []string{"none"}},
		{core.ShapeServerStream, []string{"deadline"}, []string{"none"}},
		// What only looks like a special input is none.
		{core.ShapeUnary, []string{"fail"}, []string{"fail"}},
		{core.ShapeUnary, []string{"plain:x"}, []string{"plain:x"}},
		{core.ShapeUnary, []string{" metadata"}, []string{" metadata"}},
	} {
		var f fake
		if err := f.call(t.Context(), service, test.shape, test.inputs...); err != nil || !reflect.DeepEqual(f.outputs, test.want) {
			t.Errorf("%s %q: got %q, %v, want %q", test.shape, test.inputs, f.outputs, err, test.want)
		}
	}
	for _, shape := range shapes {
		var f fake
		if err := f.call(t.Context(), service, shape, "stop", "a"); !errors.Is(err, stop) || f.outputs != nil {
			t.Errorf("%s: got %q, %v, want the case's error", shape, f.outputs, err)
		}
	}
}

func TestFailAndFailAfterGiveEachOfTheSixteenCodes(t *testing.T) {
	for code := core.CodeCanceled; code.IsError(); code++ {
		for _, shape := range shapes {
			for input, sent := range map[string]int{"fail:%s": 0, "fail-after:0:%s": 0, "fail-after:2:%s": 2, "fail-after:1000:%s": 1000} {
				if shape == core.ShapeUnary || shape == core.ShapeClientStream {
					sent = 0
				}
				var f fake
				err := f.call(t.Context(), New(nil), shape, fmt.Sprintf(input, code))
				coded, _ := errors.AsType[*errors.Error](err)
				info, _ := errors.DetailOf[*errdetails.ErrorInfo](err)
				if coded == nil || coded.Code() != code || coded.Message() != "dummy failure: "+code.String() || len(f.outputs) != sent ||
					info.GetReason() != "DUMMY_FAILURE" || info.GetDomain() != "weft.dummy" || info.GetMetadata()["code"] != code.String() {
					t.Errorf("%s %s: got %d messages, %v, %v", shape, fmt.Sprintf(input, code), len(f.outputs), err, info)
				}
				for i, output := range f.outputs {
					if output != fmt.Sprint(i) {
						t.Errorf("message %d is %q", i, output)
					}
				}
			}
		}
	}
}

func TestWhatIsMalformedIsNamed(t *testing.T) {
	long := strings.Repeat("é", 1<<20)
	for input, named := range map[string]string{
		"fail:":                     `""`,
		"fail:ok":                   `"ok"`,
		"fail:NOT_FOUND":            `"NOT_FOUND"`,
		"fail:5":                    `"5"`,
		"fail:" + long:              `"ééé`,
		"fail-after:1001:not_found": `"1001"`,
		"fail-after:-1:not_found":   `"-1"`,
		"fail-after:x:not_found":    `"x"`,
		"fail-after:not_found":      `"not_found"`,
		"fail-after:1:ok":           `"ok"`,
		"fail-after:1":              `""`,
		"fail-after:" + long + ":x": `"ééé`,
		"sleep:":                    `""`,
		"sleep:soon":                `"soon"`,
		"sleep:-1s":                 `"-1s"`,
		"sleep:" + long:             `"ééé`,
		"metadata-fail:what":        `"what"`,
	} {
		for _, shape := range shapes {
			var f fake
			err := f.call(t.Context(), New(nil), shape, input)
			if coded, _ := errors.AsType[*errors.Error](err); coded == nil || coded.Code() != core.CodeInvalidArgument ||
				!strings.Contains(coded.Message(), named) || len(coded.Message()) > 200 || f.outputs != nil {
				t.Errorf("%s %.40q: got %q, %.200v", shape, input, f.outputs, err)
			}
		}
	}
}

func TestPlainAndPanicHoldASecretThatIsForTheServerOnly(t *testing.T) {
	var f fake
	err := f.call(t.Context(), New(nil), core.ShapeUnary, "plain")
	if err == nil || !strings.Contains(err.Error(), "hunter2") || core.CodeOf(err) != core.CodeUnknown {
		t.Errorf("plain: %v", err)
	}
	defer func() {
		if value := fmt.Sprint(recover()); !strings.Contains(value, "hunter2") {
			t.Errorf("panic: %v", value)
		}
	}()
	_ = f.call(t.Context(), New(nil), core.ShapeUnary, "panic")
}

func TestSleepEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var f fake
		err := f.call(t.Context(), New(nil), core.ShapeUnary, "sleep:1h30m")
		if err != nil || time.Since(start) != 90*time.Minute || f.outputs[0] != "sleep:1h30m" {
			t.Errorf("after %s: %q, %v", time.Since(start), f.outputs, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start = time.Now()
		if err := f.call(ctx, New(nil), core.ShapeUnary, "sleep:1h"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		start = time.Now()
		if err := f.call(ctx, New(nil), core.ShapeUnary, "sleep:1h"); !errors.Is(err, context.Canceled) || time.Since(start) != time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

func TestDeadlineAnswersInWholeMilliseconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for wait, want := range map[time.Duration]string{0: "90000", 1500 * time.Microsecond: "89998", time.Hour: "0"} {
			ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
			time.Sleep(wait)
			var f fake
			if err := f.call(ctx, New(nil), core.ShapeServerStream, "deadline"); err != nil || len(f.outputs) != 1 || f.outputs[0] != want {
				t.Errorf("after %s: got %q, %v, want one message %s", wait, f.outputs, err, want)
			}
			cancel()
		}
	})
}

func TestMetadataGoesIntoHeaderAndTrailer(t *testing.T) {
	md := map[string][]string{"x-echo-a": {"1", "2"}, "x-other": {"3"}}
	header, trailer := []string{"x-echo-a=1", "x-echo-a=2"}, []string{"x-trailer-a=1", "x-trailer-a=2"}
	for _, shape := range shapes {
		for input, code := range map[string]core.Code{"metadata": core.CodeOK, "metadata-fail:aborted": core.CodeAborted} {
			f := fake{md: md}
			if err := f.call(t.Context(), New(nil), shape, input); core.CodeOf(err) != code ||
				!reflect.DeepEqual(f.header, header) || !reflect.DeepEqual(f.trailer, trailer) {
				t.Errorf("%s %s: got %v, %q, %q", shape, input, err, f.header, f.trailer)
			}
		}
	}
	f := fake{md: md}
	err := f.call(t.Context(), New(nil), core.ShapeBidiStream, "a", "metadata")
	if err != nil || f.header != nil || !reflect.DeepEqual(f.trailer, trailer) {
		t.Errorf("after the first message: got %v, %q, %q, want the trailer only", err, f.header, f.trailer)
	}
	f = fake{md: map[string][]string{"x-echo-bin": {"\x00\xff"}}}
	if err := f.call(t.Context(), New(nil), core.ShapeUnary, "metadata"); err != nil ||
		!reflect.DeepEqual(f.header, []string{"x-echo-bin=\x00\xff"}) || !reflect.DeepEqual(f.trailer, []string{"x-trailer-bin=\x00\xff"}) {
		t.Errorf("binary: got %v, %q, %q", err, f.header, f.trailer)
	}
	f = fake{md: map[string][]string{"x-echo-a": {"caf\xe9"}}}
	if err := f.call(t.Context(), New(nil), core.ShapeUnary, "metadata"); core.CodeOf(err) != core.CodeInvalidArgument {
		t.Errorf("what cannot be sent: %v", err)
	}
}

func TestOnlyStreamsOfResponsesCanSendInBetween(t *testing.T) {
	service := New(Cases{"send": func(_ context.Context, in *Input) (string, error) { return "", in.Send("x") }})
	var f fake
	if err := f.call(t.Context(), service, core.ShapeClientStream, "send"); core.CodeOf(err) != core.CodeInternal || f.outputs != nil {
		t.Errorf("got %q, %v", f.outputs, err)
	}
	if err := f.call(t.Context(), service, core.ShapeBidiStream, "send"); err != nil || !reflect.DeepEqual(f.outputs, []string{"x", ""}) {
		t.Errorf("got %q, %v", f.outputs, err)
	}
}

func TestTheJoinedInputIsBounded(t *testing.T) {
	half := strings.Repeat("x", MaxJoined/2)
	var f fake
	if err := f.call(t.Context(), New(nil), core.ShapeClientStream, half, half); err != nil || len(f.outputs[0]) != MaxJoined {
		t.Errorf("1 MiB: %v", err)
	}
	if err := f.call(t.Context(), New(nil), core.ShapeClientStream, half, half, "y"); core.CodeOf(err) != core.CodeResourceExhausted {
		t.Errorf("1 MiB and a byte: %v", err)
	}
}
