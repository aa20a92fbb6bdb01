// Package parity holds the suite that runs outcomes on every path and shape and demands that the
// application and the interceptors on both sides see the same everywhere.
package parity

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/rpctest"
)

// scenario is an outcome to be had on every path and shape.
type scenario struct {
	name string
	// server and client are the interceptors inside of the recorder's "outer" and around its "inner".
	server, client func() []core.Interceptor
	cases          map[string]rpctest.Case
	shapes         []core.Shape
	// run is the application; it returns what it saw.
	run func(t *testing.T, c *rpctest.Client) []string
	// want is what the application sees in the given shape, the same for all paths. It may be nil
	// where comparing the paths says enough.
	want func(shape core.Shape) []string
	// loose names the sides whose record is not compared, because the network decides what they see; that each chain
	// ended is still demanded.
	loose []core.Side
	// forced says which paths differ because a stack forces it (docs/compatibility.md), by a label;
	// paths with equal labels are compared, and those with others must differ.
	forced func(path rpctest.Path, shape core.Shape) string
}

const patience = 10 * time.Second

func TestParity(t *testing.T) {
	total := 0
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) { total += s.test(t) })
	}
	t.Logf("%d cases", total)
	if total < 2000 && !testing.Short() && !t.Failed() {
		t.Errorf("only %d cases ran", total)
	}
}

func (s *scenario) test(t *testing.T) (cases int) {
	rec := &rpctest.Recorder{}
	around := func(more func() []core.Interceptor) []core.Interceptor {
		chain := []core.Interceptor{rec.Interceptor("outer")}
		if more != nil {
			chain = append(chain, more()...)
		}
		return append(chain, rec.Interceptor("inner"))
	}
	seen := map[core.Shape]map[string]transcript{}
	rpctest.Run(t, &rpctest.Options{
		// The server survives panics, as any server must.
		Server: append([]core.Interceptor{errors.NewInterceptor(nil)}, around(s.server)...),
		Client: around(s.client),
		Cases:  s.cases,
		Shapes: s.shapes,
	}, func(t *testing.T, c *rpctest.Client) {
		cases++
		rec.Reset()
		app := s.run(t, c)
		if err := rec.Wait(patience); err != nil {
			t.Fatal(err)
		}
		got := transcript{path: c.Path, app: app}
		for _, side := range []core.Side{core.SideClient, core.SideServer} {
			if !slices.Contains(s.loose, side) {
				got.sides = append(got.sides, order(rec.Events(side))...)
			}
		}
		if all := strings.Join(append(app, got.sides...), "\n"); strings.Contains(strings.Join(app, "\n"), "hunter2") {
			t.Errorf("the secret has reached the client:\n%s", all)
		}
		if s.want != nil {
			if want := s.want(c.Shape); !slices.Equal(app, want) {
				t.Errorf("the application saw\n\t%s\nwant\n\t%s", strings.Join(app, "\n\t"), strings.Join(want, "\n\t"))
			}
		}
		label := ""
		if s.forced != nil {
			label = s.forced(c.Path, c.Shape)
		}
		if seen[c.Shape] == nil {
			seen[c.Shape] = map[string]transcript{}
		}
		first, ok := seen[c.Shape][label]
		if !ok {
			seen[c.Shape][label] = got
			return
		}
		if a, b := first.String(), got.String(); a != b {
			t.Errorf("differs from %s:\n%s\n--- here:\n%s", first.path, a, b)
		}
	})
	for shape, labels := range seen {
		for label, got := range labels {
			if other, ok := labels[""]; ok && label != "" && other.String() == got.String() {
				t.Errorf("%s: the difference %q is gone: take it out of docs/compatibility.md", shape, label)
			}
		}
	}
	return cases
}

type transcript struct {
	path       rpctest.Path
	app, sides []string
}

func (tr transcript) String() string {
	return "app: " + strings.Join(tr.app, "\napp: ") + "\n" + strings.Join(tr.sides, "\n")
}

// order makes a record comparable: on streams requests and responses may meet the hooks in any order to each
// other, so they are listed apart, with what comes before and after.
func order(events []rpctest.Event) []string {
	var enter, request, response, end []string
	for _, e := range events {
		switch e.What {
		case "enter":
			enter = append(enter, e.String())
		case "request":
			request = append(request, e.String())
		case "response":
			response = append(response, e.String())
		default:
			end = append(end, e.String())
		}
	}
	return slices.Concat(enter, request, response, end)
}

// show is what an application sees of a result, in neutral terms.
func show(res *rpctest.Result) []string {
	lines := []string{fmt.Sprintf("outputs %q", res.Outputs), "code " + core.CodeOf(res.Err).String()}
	if md := res.Metadata(); len(md) > 0 {
		lines = append(lines, "metadata "+strings.Join(md, " "))
	}
	if res.Err != nil {
		weft, ok := errors.AsType[*errors.Error](res.Err)
		if !ok {
			return append(lines, fmt.Sprintf("an error that does not unwrap to Weft's: %T", res.Err))
		}
		lines = append(lines, "message "+weft.Message())
		for _, detail := range weft.Details() {
			lines = append(lines, fmt.Sprintf("detail %s %x", detail.TypeURL, detail.Value))
		}
	}
	return lines
}

// call is the usual application: one call, read to its end.
func call(inputs ...string) func(*testing.T, *rpctest.Client) []string {
	return func(t *testing.T, c *rpctest.Client) []string { return show(c.Call(t.Context(), inputs...)) }
}

// outcome is what [show] shows of a failure.
func outcome(code core.Code, message string, more ...string) func(core.Shape) []string {
	return func(core.Shape) []string {
		return append([]string{"outputs []", "code " + code.String(), "message " + message}, more...)
	}
}

// outputs are those of the Dummy service for one input, by shape.
func outputs(shape core.Shape, input string) string {
	if shape == core.ShapeServerStream {
		return fmt.Sprintf("outputs %q", strings.Split(input, ""))
	}
	return fmt.Sprintf("outputs %q", []string{input})
}

// around makes an interceptor of a function.
func around(f core.InterceptorFunc) func() []core.Interceptor {
	return func() []core.Interceptor { return []core.Interceptor{f} }
}

var (
	single    = []core.Shape{core.ShapeUnary, core.ShapeClientStream}
	streaming = []core.Shape{core.ShapeServerStream, core.ShapeBidiStream}
	streams   = []core.Shape{core.ShapeClientStream, core.ShapeServerStream, core.ShapeBidiStream}
	both      = []core.Side{core.SideClient, core.SideServer}
	theServer = []core.Side{core.SideServer}
)

func eof(err error) string {
	if err == io.EOF { //nolint:errorlint // rpctest promises itself
		return "EOF"
	}
	return core.CodeOf(err).String()
}

func withTimeout(limit time.Duration) func() []core.Interceptor {
	return around(func(ctx context.Context, call *core.Call, next core.Handler) error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return next(ctx, call)
	})
}
