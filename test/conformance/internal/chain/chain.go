// Package chain is what the programs under test have installed: interceptors that
// see everything and change nothing, or one that breaks something.
package chain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rpcweft/weft/core"
)

// The metadata that the chain adds to every call.
const (
	Key    = "x-weft-judged"
	binKey = Key + "-bin"
)

// Counts is what one interceptor of the chain counted.
type Counts struct {
	Entered   int64 `json:"entered"` // calls
	Left      int64 `json:"left"`
	Failed    int64 `json:"failed"` // of those that were left
	Requests  int64 `json:"requests"`
	Responses int64 `json:"responses"`
	Keys      int64 `json:"keys"` // of metadata that was read
}

// Add adds other.
func (c *Counts) Add(other Counts) {
	c.Entered += other.Entered
	c.Left += other.Left
	c.Failed += other.Failed
	c.Requests += other.Requests
	c.Responses += other.Responses
	c.Keys += other.Keys
}

// Report is what a program saw of its calls.
type Report struct {
	Outer    Counts   `json:"outer"` // the first interceptor of the chain
	Inner    Counts   `json:"inner"` // the last
	Problems []string `json:"problems"`
}

// ReadReport returns the sum of the reports in a folder.
func ReadReport(folder string) (sum Report, err error) {
	files, err := os.ReadDir(folder)
	if err != nil {
		return sum, err
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return sum, err
	}
	defer root.Close()
	for _, file := range files {
		data, err := root.ReadFile(file.Name())
		if err != nil {
			return sum, err
		}
		var r Report
		if err := json.Unmarshal(data, &r); err != nil {
			return sum, fmt.Errorf("%s: %w", file.Name(), err)
		}
		sum.Outer.Add(r.Outer)
		sum.Inner.Add(r.Inner)
		sum.Problems = append(sum.Problems, r.Problems...)
	}
	return sum, nil
}

// Chain has the interceptors of one program.
type Chain struct {
	Interceptors []core.Interceptor

	outer, inner counter
	problems     problems
}

// New returns the chain, with the fault in its middle if it is one of an interceptor, and
// with one that makes an attempt of each call if it is for clients and asked for.
func New(fault string, attempts bool) *Chain {
	c := &Chain{}
	c.outer.problems, c.inner.problems = &c.problems, &c.problems
	c.Interceptors = []core.Interceptor{
		&c.outer,
		pass{},
		&reader{counter: &c.outer},
		&writer{problems: &c.problems},
	}
	if broken := faults[fault]; broken != nil {
		c.Interceptors = append(c.Interceptors, broken)
	}
	if attempts {
		c.Interceptors = append(c.Interceptors, once{})
	}
	c.Interceptors = append(c.Interceptors, core.NewChain(pass{}, lateReader{}), &c.inner)
	return c
}

// Write writes the report into a file of its own in the folder. It waits for calls whose handler
// still sleeps although its client has left: a server that is shut down does not.
func (c *Chain) Write(folder string) error {
	for end := time.Now().Add(3 * time.Second); c.outer.left.Load() < c.outer.entered.Load() && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	r := Report{Outer: c.outer.counts(), Inner: c.inner.counts(), Problems: c.problems.list()}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(folder, "report")
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Close())
}

// problems are what no call should meet, the first few of them.
type problems struct {
	mu   sync.Mutex
	text []string
}

func (p *problems) addf(call *core.Call, format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.text) < 10 {
		p.text = append(p.text, fmt.Sprintf("%s %s: ", call.Protocol(), call.Method())+fmt.Sprintf(format, args...))
	}
}

func (p *problems) list() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text
}

// counter counts, and checks what holds for every call.
type counter struct {
	problems *problems

	entered, left, failed, requests, responses, keys atomic.Int64
}

func (c *counter) counts() Counts {
	return Counts{
		Entered: c.entered.Load(), Left: c.left.Load(), Failed: c.failed.Load(),
		Requests: c.requests.Load(), Responses: c.responses.Load(), Keys: c.keys.Load(),
	}
}

func (c *counter) hook(call *core.Call, count *atomic.Int64) core.Hook {
	return func(_ context.Context, msg any) error {
		count.Add(1)
		if m, ok := msg.(proto.Message); !ok || !m.ProtoReflect().IsValid() {
			c.problems.addf(call, "a hook got %T", msg)
		}
		return nil
	}
}

// Intercept implements [core.Interceptor].
func (c *counter) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	c.entered.Add(1)
	call.OnRequest(c.hook(call, &c.requests))
	call.OnResponse(c.hook(call, &c.responses))
	err := next(ctx, call)
	c.left.Add(1)
	if err != nil {
		c.failed.Add(1)
		if coded := core.CodedError(nil); !errors.As(err, &coded) && core.CodeOf(err) == core.CodeUnknown {
			c.problems.addf(call, "next returned an error of no code: %v", err)
		}
	}
	return err
}

// pass does nothing.
type pass struct{}

func (pass) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	return next(ctx, call)
}

// once is a retry that is content with the first attempt.
type once struct{}

func (once) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	attempt := call.NewAttempt()
	err := next(ctx, attempt)
	call.Adopt(attempt)
	return err
}

// reader reads all metadata, the response's when there is some.
type reader struct{ counter *counter }

func (r *reader) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	read := func(md *core.Metadata) {
		for range md.All() {
			r.counter.keys.Add(1)
		}
	}
	read(call.RequestHeader())
	err := next(ctx, call)
	read(call.ResponseHeader())
	read(call.ResponseTrailer())
	read(call.ResponseMetadata())
	return err
}

// lateReader reads metadata only when the first response passes.
type lateReader struct{}

func (lateReader) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	call.OnResponse(func(context.Context, any) error {
		_ = call.RequestHeader().Get("x-test-case-name")
		_ = call.ResponseHeader().Get(Key)
		return nil
	})
	return next(ctx, call)
}

// writer adds metadata of its own, binary too.
type writer struct{ problems *problems }

func (w *writer) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	write := func(what string, md *core.Metadata) {
		for key, value := range map[string]string{Key: what, binKey: what + "\x00\xff"} {
			if err := md.Set(key, value); err != nil {
				w.problems.addf(call, "%s: %v", what, err)
			}
		}
	}
	if call.Side() == core.SideClient {
		write("request header", call.RequestHeader())
		return next(ctx, call)
	}
	write("response header", call.ResponseHeader())
	err := next(ctx, call)
	write("response trailer", call.ResponseTrailer())
	return err
}
