package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/internal/dummy"
)

// row is one input, or several in a row, in all shapes.
type row struct {
	inputs  []string
	label   string        // what to call them, if not what they are
	timeout time.Duration // of the client
	message string        // of a failure; "" is any
	want    map[core.Shape]string
}

const eachCode = "fail:CODE" // stands for sixteen calls

func rows() []row {
	const (
		unary, client, server, bidi = core.ShapeUnary, core.ShapeClientStream, core.ShapeServerStream, core.ShapeBidiStream
		failed                      = "aborted +detail"
		failure                     = "dummy failure: aborted"
	)
	all := func(want string) map[core.Shape]string {
		return map[core.Shape]string{unary: want, client: want, server: want, bidi: want}
	}
	return []row{
		{inputs: []string{"hi"}, want: map[core.Shape]string{unary: `ok "hi"`, server: `ok "h,i"`}},
		{inputs: []string{"h", "i"}, want: map[core.Shape]string{client: `ok "hi"`, bidi: `ok "h,i"`}},
		{inputs: []string{eachCode}, want: all("16 codes +detail")},
		{inputs: []string{"fail:what"}, message: `unknown code "what"`, want: all("invalid_argument")},
		{
			inputs: []string{"fail-after:2:aborted"}, message: failure,
			want: map[core.Shape]string{unary: failed, client: failed, server: `"0,1" ` + failed, bidi: `"0,1" ` + failed},
		},
		{inputs: []string{"plain"}, message: core.PublicMessage(core.CodeUnknown), want: all("unknown")},
		{inputs: []string{"panic"}, message: core.PublicMessage(core.CodeInternal), want: all("internal")},
		{
			inputs: []string{"sleep:20ms"},
			want:   map[core.Shape]string{unary: "ok echo", client: "ok echo", server: "ok echo in 10", bidi: "ok echo"},
		},
		{inputs: []string{"sleep:1h"}, timeout: 50 * time.Millisecond, want: all("deadline_exceeded")},
		{
			inputs: []string{"metadata"},
			want:   map[core.Shape]string{unary: "ok echo +h+t", client: "ok echo +h+t", server: "ok echo in 8 +h+t", bidi: "ok echo +h+t"},
		},
		{inputs: []string{"hi", "metadata"}, want: map[core.Shape]string{bidi: "ok echo in 2 +t"}},
		{inputs: []string{"metadata-fail:aborted"}, message: failure, want: all(failed + " +h+t")},
		{inputs: []string{"deadline"}, want: all(`ok "none"`)},
		{inputs: []string{"deadline"}, timeout: time.Minute, want: all(`ok "<60000"`)},
		{
			inputs: []string{strings.Repeat("x", dummy.MaxJoined), "x"}, label: "1 MiB, 1 byte",
			want: map[core.Shape]string{client: "resource_exhausted"},
		},
	}
}

func (r *row) name() string {
	name := cmp.Or(r.label, strings.Join(r.inputs, ", "))
	if r.timeout > 0 {
		name += " (in " + r.timeout.String() + ")"
	}
	return name
}

// demoConfig chooses free ports, and logs nothing.
func demoConfig() config {
	log := slog.New(slog.DiscardHandler)
	links, err := chain(log, "", nil)
	if err != nil {
		panic(err) // nothing of it comes from outside
	}
	links = slices.Clip(links) // tests append to one of them
	return config{addr: "127.0.0.1:0", grpcAddr: "127.0.0.1:0", webAddr: "127.0.0.1:0", log: log, connectChain: links, grpcChain: links}
}

// demo calls every outcome through every path and prints the table. It returns
// the exit code: 1 if a cell is not what the Dummy service promises.
func demo(ctx context.Context, c config, stdout, stderr io.Writer) int {
	fail := func(err error) int {
		fmt.Fprintln(stderr, "echo-server:", err)
		return 1
	}
	begin := time.Now()
	s, err := start(ctx, c)
	if err != nil {
		return fail(err)
	}
	defer s.stop(0)
	paths, err := newPaths(s)
	if err != nil {
		return fail(err)
	}
	progress := io.Discard
	if terminal(stderr) {
		progress = stderr
	}
	t := newTable(paths)
	for _, shape := range []core.Shape{core.ShapeUnary, core.ShapeClientStream, core.ShapeServerStream, core.ShapeBidiStream} {
		t.heading(shape.String())
		for _, r := range rows() {
			if r.want[shape] == "" {
				continue
			}
			fmt.Fprintf(progress, "\r\033[K%s %s", shape, r.name())
			cells := make([]string, len(paths))
			var calls sync.WaitGroup
			for i, p := range paths {
				calls.Go(func() { cells[i] = r.cell(ctx, p, shape) })
			}
			calls.Wait()
			t.add(r.name(), r.want[shape], cells)
		}
	}
	for _, p := range paths {
		p.close()
	}
	fmt.Fprint(progress, "\r\033[K")
	if ctx.Err() != nil {
		return fail(errors.New("interrupted"))
	}
	t.print(stdout, terminal(stdout) && os.Getenv("NO_COLOR") == "")
	fmt.Fprintf(stdout, "\n+h: metadata in the response header, +t: in the trailer, +detail: the error's detail\n")
	if t.marked > 0 {
		fmt.Fprintf(stdout, "%s%d of %d cells differ from what the Dummy service promises\n", mark, t.marked, t.cells)
		return 1
	}
	fmt.Fprintf(stdout, "all %d cells are what the Dummy service promises (%s)\n", t.cells, time.Since(begin).Round(time.Millisecond))
	return 0
}

// cell says what the application saw.
func (r *row) cell(ctx context.Context, p path, shape core.Shape) string {
	if r.inputs[0] != eachCode {
		return r.call(ctx, p, shape, r.inputs, r.message)
	}
	count := 0
	for code := core.CodeCanceled; code.IsError(); code++ {
		cell := r.call(ctx, p, shape, []string{"fail:" + code.String()}, "dummy failure: "+code.String())
		if cell != code.String()+" +detail" {
			return code.String() + ": " + cell
		}
		count++
	}
	return fmt.Sprintf("%d codes +detail", count)
}

// A call that takes this long hangs.
const patience = 10 * time.Second

func (r *row) call(ctx context.Context, p path, shape core.Shape, inputs []string, message string) string {
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	defer time.AfterFunc(patience, giveUp).Stop()
	if r.timeout > 0 {
		timed, cancel := context.WithTimeout(ctx, r.timeout)
		defer cancel()
		ctx = timed
	}
	seen := &observation{}
	a := p.call(context.WithValue(ctx, observationKey{}, seen), shape, inputs)

	var words []string
	if a.code == core.CodeOK {
		words = append(words, "ok")
	}
	switch outputs := strings.Join(a.outputs, ","); {
	case len(a.outputs) == 0:
	case r.timeout > 0 && r.inTime(outputs):
		words = append(words, fmt.Sprintf(`"<%d"`, r.timeout.Milliseconds()))
	case len(outputs) > 4 && strings.Join(a.outputs, "") == strings.Join(inputs, ""):
		words = append(words, "echo")
		if len(a.outputs) > 1 {
			words = append(words, fmt.Sprintf("in %d", len(a.outputs)))
		}
	default:
		words = append(words, strconv.Quote(outputs))
	}
	if a.code != core.CodeOK {
		words = append(words, a.code.String())
	}
	for _, detail := range a.details {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetMetadata()["code"] == a.code.String() {
			words = append(words, "+detail")
		} else {
			words = append(words, fmt.Sprintf("+%v", detail))
		}
	}
	got := observation{a.code, len(a.outputs), has(a.header, headerKey), has(a.trailer, trailerKey)}
	words = append(words, got.marks()...)
	if message != "" && a.message != message {
		words = append(words, strconv.Quote(a.message))
	}
	if strings.Contains(a.text, "hunter2") {
		words = append(words, "LEAKED")
	}
	if *seen != got {
		words = append(words, fmt.Sprintf("(the interceptor saw %s, %d messages %s)", seen.code, seen.messages, seen.marks()))
	}
	return strings.Join(words, " ")
}

// inTime reports whether output is a time left that the timeout allows.
func (r *row) inTime(output string) bool {
	ms, err := strconv.ParseInt(output, 10, 64)
	return err == nil && ms > 0 && ms <= r.timeout.Milliseconds()
}

// table is the table that -demo prints.
type table struct {
	lines         [][]string
	cells, marked int
}

const mark, right = "✗ ", "✓"

func newTable(paths []path) *table {
	t := &table{lines: [][]string{{"", "client"}, {"", "protocol"}, {"", "server"}}}
	for _, p := range paths {
		for i, title := range []string{p.client, p.protocol, p.server} {
			t.lines[i] = append(t.lines[i], title)
		}
	}
	return t
}

func (t *table) heading(title string) { t.lines = append(t.lines, []string{""}, []string{title}) }

// add adds a row with what is wanted and, for each path, whether the application got it, or else what it got.
func (t *table) add(name, want string, cells []string) {
	for i, cell := range cells {
		if cell == want {
			cells[i] = right
			continue
		}
		cells[i] = mark + cell
		t.marked++
	}
	t.cells += len(cells)
	t.lines = append(t.lines, append([]string{"  " + name, want}, cells...))
}

func (t *table) print(out io.Writer, color bool) {
	widths := make([]int, len(t.lines[0]))
	for _, line := range t.lines {
		for i, cell := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, line := range t.lines {
		for i, cell := range line {
			padding := "\n"
			if i < len(line)-1 {
				padding = strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2)
			}
			if color && strings.HasPrefix(cell, mark) {
				cell = "\033[1;31m" + cell + "\033[m"
			}
			fmt.Fprint(out, cell, padding)
		}
	}
}

// terminal reports whether a person is looking.
func terminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
