// Package trace shows what each interceptor did for a call, for development: when it was entered, when the next one was,
// which messages passed it, when it returned and with which code. Drawn as bars, one inside of the other, it is the onion
// that a chain is. It is not distributed tracing: nothing leaves the program.
//
//	rec, err := trace.New(100, &trace.Options{Enabled: true})
//	...
//	connectx.New(rec.Wrap(ids, log, guard)...)
//	mux.Handle("/debug/calls", rec) // GET /debug/calls?id=r-42
//
// A [Recorder] keeps the last calls in memory and gives them out by request id. It writes down names, times, codes and
// counts, and of what a peer may choose the method, the id and the HTTP method: never messages, metadata, addresses, texts of errors
// or values of panics. It is off unless switched on.
//
// # JSON
//
// [Recorder.ServeHTTP] answers with the calls that have the id, the newest first. Times are in nanoseconds, offsets from
// the start of the call:
//
//	{"calls": [{
//	  "id": "r-42",
//	  "method": "/weft.dummy.v1.DummyService/ExecuteServerStream",
//	  "side": "server",                    // or "client"
//	  "shape": "server_stream",            // "unary", "client_stream", "bidi_stream"
//	  "protocol": "grpc",                  // "grpcweb", "connect"
//	  "httpMethod": "POST",                // absent while it is not known
//	  "start": "2026-11-21T13:49:25.123456789Z",
//	  "durationNs": 41000,                 // so far, of a call that is running
//	  "running": false,
//	  "panicked": false,                   // a panic or runtime.Goexit left the chain
//	  "code": "ok",                        // absent while running, and if panicked
//	  "droppedSpans": 0,                   // left out, because a call has 100 at most
//	  "spans": [{                          // in the order in which they were entered, so parents come first; the first one is that of the call
//	    "name": "logging",                 // of the interceptor; "handler" or, on clients, "rpc" for what is innermost
//	    "parent": -1,                      // index in spans of the one around, -1 for the first
//	    "depth": 0,                        // how many are around
//	    "attempt": 1,                      // of a call that is retried or hedged, from 1
//	    "enteredNs": 0,
//	    "durationNs": 41000,               // until it returned; so far, while it is running
//	    "running": false,
//	    "panicked": false,                 // a panic or runtime.Goexit passed it
//	    "code": "ok",                      // that it returned, as the wire would carry it; absent as above
//	    "next": 1,                         // how often it called next: 0 if it answered by itself, or is innermost
//	    "requests": 1,                     // messages that got as far as this: what an interceptor's own hook
//	    "responses": 2,                    // stops has passed those before it, not those after
//	    "events": [                        // the first messages, 100 at most for a span, 1000 for a call
//	      {"kind": "request", "atNs": 9000},
//	      {"kind": "response", "atNs": 15000},
//	      {"kind": "response", "atNs": 22000}
//	    ]
//	  }, ...]
//	}, ...]}
package trace

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/interceptors/requestid"
)

// MaxCapacity is how many calls a [Recorder] may keep. A usual one takes a few KiB, none more than 100 KiB.
const MaxCapacity = 10_000

// MaxIDLen is how long an id may be, in bytes. A call whose id is longer has none.
const MaxIDLen = requestid.MaxLen

// What is kept of one call at most.
const (
	maxSpans      = 100
	maxEvents     = 1000
	maxSpanEvents = 100
	maxMethodLen  = 256
)

// Options for [New]. The zero value records nothing until [Recorder.SetEnabled].
type Options struct {
	// Enabled switches recording on from the start.
	Enabled bool
	// ID returns the id by which a call is found, "" if there is none yet. It is asked each time that an interceptor is
	// entered, with the context that this one gets, and the last answer counts; so an id is found wherever it is made. Nil means that of
	// interceptors/requestid. It is called by many goroutines at once.
	ID func(ctx context.Context, call *core.Call) string
	// List lets [Recorder.ServeHTTP] answer a request without an id with the newest calls of all. Without it, only who knows
	// an id sees the call.
	List bool
}

// Recorder keeps the last calls that went through chains that it has wrapped. It may be used by many goroutines. A nil
// *Recorder is one that is never on.
type Recorder struct {
	options Options
	on      atomic.Bool
	begun   atomic.Uint64
	ring    []atomic.Pointer[record]
}

// New returns a recorder that keeps the last calls, as many as capacity says, the running ones included. Nil options are the zero Options.
//
// It returns an error unless capacity is from 1 to [MaxCapacity].
func New(capacity int, opts *Options) (*Recorder, error) {
	if capacity < 1 || capacity > MaxCapacity {
		return nil, fmt.Errorf("trace: the capacity is %d, want 1 to %d calls", capacity, MaxCapacity)
	}
	r := &Recorder{ring: make([]atomic.Pointer[record], capacity)}
	if opts != nil {
		r.options = *opts
	}
	if r.options.ID == nil {
		r.options.ID = func(ctx context.Context, _ *core.Call) string { return requestid.FromContext(ctx) }
	}
	r.on.Store(r.options.Enabled)
	return r, nil
}

// SetEnabled switches recording on or off. A call that began while it was off is not recorded; one that began while it was
// on is, but for what is entered after. What was recorded stays. It does nothing with a nil recorder.
func (r *Recorder) SetEnabled(on bool) {
	if r != nil {
		r.on.Store(on)
	}
}

// Enabled reports whether recording is on.
func (r *Recorder) Enabled() bool { return r != nil && r.on.Load() }

// Calls returns the calls with the id, the newest first: nil if there are none, or the id is empty. An id may be that of several
// calls: of those that its handler makes, say, or of one that a caller repeats.
func (r *Recorder) Calls(id string) []Trace {
	if id == "" {
		return nil
	}
	return r.newest(MaxCapacity, func(t *record) bool { return t.is(id) })
}

// Recent returns the newest calls, at most n, the newest first.
func (r *Recorder) Recent(n int) []Trace {
	return r.newest(n, func(*record) bool { return true })
}

func (r *Recorder) newest(n int, want func(*record) bool) (traces []Trace) {
	if r == nil {
		return nil
	}
	size := uint64(len(r.ring))
	for begun, back := r.begun.Load(), uint64(1); back <= min(size, begun) && len(traces) < n; back++ {
		// It is nil for a moment, while it is put there.
		if t := r.ring[(begun-back)%size].Load(); t != nil && want(t) {
			traces = append(traces, t.snapshot())
		}
	}
	return traces
}

func (r *Recorder) keep(t *record) {
	r.ring[(r.begun.Add(1)-1)%uint64(len(r.ring))].Store(t)
}

// Trace is what is known of one call. It is a copy, as of the moment when it was asked for.
type Trace struct {
	// ID is the one that [Options.ID] gave last, "" if none.
	ID string `json:"id"`
	// Method is the full name, "/package.Service/Method", as far as 256 bytes go.
	Method string `json:"method"`
	// Side, Shape, Protocol and HTTPMethod are those of the call: see [core.Call]. HTTPMethod is empty until it is known.
	Side       string `json:"side"`
	Shape      string `json:"shape"`
	Protocol   string `json:"protocol"`
	HTTPMethod string `json:"httpMethod,omitempty"`
	// Start is when the outermost interceptor was entered, in UTC.
	Start time.Time `json:"start"`
	// Duration, Running, Panicked and Code are those of the first span.
	Duration time.Duration `json:"durationNs"`
	Running  bool          `json:"running"`
	Panicked bool          `json:"panicked"`
	Code     string        `json:"code,omitempty"`
	// Spans are the interceptors and what they are around, in the order in which they were entered. The first one is the outermost.
	Spans []Span `json:"spans"`
	// DroppedSpans counts those that were left out because there were too many. What they are around is left out too, and not counted.
	DroppedSpans int `json:"droppedSpans"`
}

// Span is what one interceptor did for a call, or the handler or RPC itself, which is the innermost one. An interceptor inside of one that
// retries or hedges has a span for each attempt.
type Span struct {
	// Name is that of the interceptor (see [Named]), or "handler" on servers and "rpc" on clients for what is innermost.
	Name string `json:"name"`
	// Parent is the index of the span around this one, -1 for the first.
	Parent int `json:"parent"`
	// Depth is the number of spans around this one.
	Depth int `json:"depth"`
	// Attempt is the number of the attempt, from 1.
	Attempt int `json:"attempt"`
	// Entered is the time from the start of the call until this was entered, in nanoseconds in JSON.
	Entered time.Duration `json:"enteredNs"`
	// Duration is the time from then until this returned, or until now while it is running.
	Duration time.Duration `json:"durationNs"`
	// Running says that this has not returned.
	Running bool `json:"running"`
	// Panicked says that a panic or [runtime.Goexit] passed instead of a return.
	Panicked bool `json:"panicked"`
	// Code is the name of the code that this returned, "ok" for success, as the wire would carry it. It is empty while this is
	// running, and if it panicked.
	Code string `json:"code,omitempty"`
	// Next counts how often this called next: not at all if it answered by itself.
	Next int `json:"next"`
	// Requests and Responses count the messages that got as far as this. A message that a hook of this interceptor stops
	// has passed those that it met before, not those after. Requests meet nobody if an interceptor answers by itself.
	Requests  int `json:"requests"`
	Responses int `json:"responses"`
	// Events are the first of these messages, in the order of time.
	Events []Event `json:"events"`
}

// Event is one message that passed.
type Event struct {
	// Kind is "request" or "response".
	Kind string `json:"kind"`
	// At is the time from the start of the call, in nanoseconds in JSON.
	At time.Duration `json:"atNs"`
}

// record is a call in the making.
type record struct {
	start time.Time

	mu     sync.Mutex
	trace  Trace // Method and Side never change
	events int
}

// begin copies what a peer wrote: it may be the smallest part of a string, such as the whole first line of an HTTP/1.1 request.
func begin(call *core.Call, now time.Time) *record {
	return &record{start: now, trace: Trace{
		Method: strings.Clone(methodOf(call)), Side: call.Side().String(), Shape: call.Shape().String(), Protocol: string(call.Protocol()),
		HTTPMethod: strings.Clone(call.HTTPMethod()), Start: now.UTC().Round(0),
	}}
}

// methodOf returns the name as far as it is kept: one that the server does not know may be as long as its peer likes.
func methodOf(call *core.Call) string {
	method := call.Method().String()
	return method[:min(len(method), maxMethodLen)]
}

// same reports whether call is this one, or an attempt of it: going by its looks, because attempts are not known by anything else.
func (t *record) same(call *core.Call) bool {
	return t.trace.Side == call.Side().String() && t.trace.Method == methodOf(call)
}

func (t *record) is(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.trace.ID == id
}

// snapshot returns a copy.
func (t *record) snapshot() Trace {
	t.mu.Lock()
	defer t.mu.Unlock()
	out, now := t.trace, time.Since(t.start)
	out.Spans = slices.Clone(out.Spans)
	for i := range out.Spans {
		s := &out.Spans[i]
		s.Events = append([]Event{}, s.Events...) // never null in JSON
		if s.Running {
			s.Duration = now - s.Entered
		}
	}
	first := out.Spans[0]
	out.Duration, out.Running, out.Panicked, out.Code = first.Duration, first.Running, first.Panicked, first.Code
	return out
}

// enter adds a span and returns its index, or -1 if there are too many.
func (t *record) enter(s Span, id string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if id != "" && len(id) <= MaxIDLen && id != t.trace.ID {
		t.trace.ID = strings.Clone(id) // as begin does
	}
	if s.Parent >= 0 {
		parent := &t.trace.Spans[s.Parent]
		parent.Next++
		s.Depth = parent.Depth + 1
	}
	if len(t.trace.Spans) == maxSpans {
		t.trace.DroppedSpans++
		return -1
	}
	t.trace.Spans = append(t.trace.Spans, s)
	return len(t.trace.Spans) - 1
}

// message counts a message that passed the span.
func (t *record) message(span int, request bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, kind := &t.trace.Spans[span], "response"
	if request {
		kind = "request"
		s.Requests++
	} else {
		s.Responses++
	}
	if t.events < maxEvents && len(s.Events) < maxSpanEvents {
		t.events++
		s.Events = append(s.Events, Event{kind, time.Since(t.start)})
	}
}

// leave ends a span. The code is empty for a panic.
func (t *record) leave(span int, code, httpMethod string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.trace.Spans[span]
	s.Duration, s.Running, s.Panicked, s.Code = time.Since(t.start)-s.Entered, false, code == "", code
	if httpMethod != "" && httpMethod != t.trace.HTTPMethod {
		t.trace.HTTPMethod = strings.Clone(httpMethod)
	}
}
