package rpctest_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/rpctest"
)

func record(events []rpctest.Event) string {
	lines := make([]string, 0, len(events))
	for _, e := range events {
		lines = append(lines, e.String())
	}
	return strings.Join(lines, "\n")
}

func TestARecordHasAllThatAnInterceptorSawInOrder(t *testing.T) {
	rec := rpctest.Recorder{Full: true}
	call := rpctest.Call(rpctest.Fake{
		Side: core.SideClient, Shape: core.ShapeBidiStream, Requests: []any{&rpctest.Request{Input: "a"}, "odd"}, Responses: []any{&rpctest.Response{Output: "b"}},
		RequestHeader: map[string][]string{"x-in": {"1", "2"}}, ResponseHeader: map[string][]string{"x-h": {"3"}}, ResponseTrailer: map[string][]string{"x-t-bin": {"\x00"}},
	})
	fail := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		return errors.Join(next(ctx, call), errors.NotFound("gone").WithCause(errors.New("private")))
	})
	if err := call.Run(t.Context(), rec.Interceptor("outer"), fail, rec.Interceptor("inner")); core.CodeOf(err) != core.CodeNotFound {
		t.Error(err)
	}
	const want = `client outer: enter bidi_stream /weft.dummy.v1.DummyService/ExecuteClientServerStream [x-in="1" x-in="2"]
client inner: enter bidi_stream /weft.dummy.v1.DummyService/ExecuteClientServerStream [x-in="1" x-in="2"]
client outer: request "a"
client inner: request "a"
client outer: request odd
client inner: request odd
client inner: response "b"
client outer: response "b"
client inner: end ok [x-h="3" x-t-bin="\x00"]
client outer: end not_found "gone" [x-h="3" x-t-bin="\x00"]`
	if got := record(rec.Events(core.SideClient)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := rec.Events(core.SideServer); got != nil {
		t.Errorf("on the server: %v", got)
	}
	if n := len(rec.Reset()); n != 10 || len(rec.Reset()) != 0 {
		t.Errorf("Reset returned %d events, want all, once", n)
	}
}

func TestARecorderWaitsForAllThatEnteredAndSaysWhoIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec rpctest.Recorder
		if err := rec.Wait(0); err != nil {
			t.Error(err)
		}
		slow := rpctest.Call(rpctest.Fake{Invoke: func(context.Context, *core.Call) error {
			time.Sleep(time.Minute)
			panic("boom")
		}})
		go func() {
			defer func() { _ = recover() }()
			_ = slow.Run(t.Context(), rec.Interceptor("slow"))
		}()
		synctest.Wait()
		if err := rec.Wait(time.Second); err == nil || !strings.Contains(err.Error(), "1 interceptors") || !strings.Contains(err.Error(), "server slow: enter unary") {
			t.Errorf("while one waits: %v", err)
		}
		start := time.Now()
		if err := rec.Wait(time.Hour); err != nil || time.Since(start) != 59*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		if events := rec.Events(core.SideServer); events[len(events)-1].String() != "server slow: end panic" {
			t.Error(record(events))
		}
	})
}

func TestDiffShowsWhatIsMissingAndWhatIsTooMuch(t *testing.T) {
	events := func(names string) (list []rpctest.Event) {
		for _, name := range names {
			list = append(list, rpctest.Event{Name: string(name), Side: core.SideClient, What: "enter"})
		}
		return list
	}
	for _, test := range [][3]string{
		{"", "", ""}, {"abc", "abc", ""}, {"abc", "", "-a-b-c"}, {"", "ab", "+a+b"}, {"abcd", "abxd", " a b-c+x d"},
		{"abc", "bc", "-a b c"}, {"bc", "abc", "+a b c"}, {"abab", "baba", "-a b a b+a"},
	} {
		short := ""
		diff := rpctest.Diff(events(test[0]), events(test[1]))
		for line := range strings.Lines(diff) {
			short += line[:1] + strings.TrimSuffix(line[len("- client "):], ": enter \n")
		}
		if short != test[2] {
			t.Errorf("%s to %s: got %q, %q, want %q", test[0], test[1], short, diff, test[2])
		}
	}
	if a := events("a"); rpctest.Diff(a, slices.Clone(a)) != "" {
		t.Error("equal records differ")
	}
}

// spy is a test that may fail.
type spy struct {
	testing.TB
	failed string
}

func (s *spy) Helper() {}
func (s *spy) Errorf(format string, args ...any) {
	s.failed += fmt.Sprintf(format, args...)
}

func TestAResultThatIsNotWantedSaysWhereItComesFrom(t *testing.T) {
	rpctest.Run(t, &rpctest.Options{Paths: rpctest.Paths()[:1]}, func(t *testing.T, c *rpctest.Client) {
		s := &spy{TB: t}
		c.Call(t.Context(), "hi").Want(s, core.CodeOK, "hi")
		c.Call(t.Context(), "fail:not_found").Want(s, core.CodeNotFound, "")
		if s.failed != "" {
			t.Errorf("what is wanted fails: %s", s.failed)
		}
		for input, want := range map[string]string{"fail:not_found": "not_found: dummy failure: not_found", "ho": `o"]`} {
			s.failed = ""
			c.Call(t.Context(), input).Want(s, core.CodeOK, "hi")
			for _, part := range []string{c.Path.String() + " " + c.Shape.String(), `want ok "hi"`, want} {
				if !strings.Contains(s.failed, part) {
					t.Errorf("%q does not say %q", s.failed, part)
				}
			}
		}
	})
}
