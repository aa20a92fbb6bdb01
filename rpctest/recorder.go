package rpctest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rpcweft/weft/core"
)

// Recorder writes down what its interceptors see of calls, in order, on any
// side. The zero value is ready. It may be used by many goroutines.
type Recorder struct {
	// Full adds the request metadata to what is recorded of an entry, and to that of an
	// end the message for the peer and the response metadata. It is set before the first call.
	Full bool

	mu      sync.Mutex
	changed sync.Cond
	events  []Event
	open    int
}

// Event is one thing that an interceptor saw.
type Event struct {
	// Name is that of the interceptor.
	Name string
	Side core.Side
	// What is "enter", "request", "response" or "end".
	What string
	// Text says more: of a message its content, of an entry the call, of an end the code or "panic". See [Recorder].
	Text string
}

// String returns "server a: request hello".
func (e Event) String() string { return fmt.Sprintf("%s %s: %s %s", e.Side, e.Name, e.What, e.Text) }

// Interceptor returns an interceptor that records what it sees under a name.
func (r *Recorder) Interceptor(name string) core.Interceptor {
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) (err error) {
		enter := fmt.Sprintf("%s %s", call.Shape(), call.Method())
		if r.Full {
			enter += fmt.Sprint(" ", pairs(call.RequestHeader()))
		}
		r.add(1, Event{name, call.Side(), "enter", enter})
		call.OnRequest(func(_ context.Context, msg any) error {
			r.add(0, Event{name, call.Side(), "request", text(msg)})
			return nil
		})
		call.OnResponse(func(_ context.Context, msg any) error {
			r.add(0, Event{name, call.Side(), "response", text(msg)})
			return nil
		})
		returned := false
		defer func() {
			end := core.CodeOf(err).String()
			if !returned {
				end = "panic"
			}
			if r.Full {
				if coded := core.FindCoded(err, nil); coded != nil {
					end += fmt.Sprintf(" %q", coded.Message())
				}
				end += fmt.Sprint(" ", pairs(call.ResponseMetadata()))
			}
			r.add(-1, Event{name, call.Side(), "end", end})
		}()
		err = next(ctx, call)
		returned = true
		return err
	})
}

// text shows the one field of the Dummy service's messages.
func text(msg any) string {
	switch msg := msg.(type) {
	case interface{ GetInput() string }:
		return fmt.Sprintf("%q", msg.GetInput())
	case interface{ GetOutput() string }:
		return fmt.Sprintf("%q", msg.GetOutput())
	}
	return fmt.Sprint(msg)
}

func (r *Recorder) add(open int, e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	r.open += open
	if r.changed.L != nil {
		r.changed.Broadcast()
	}
}

// Add records an event of the test's own.
func (r *Recorder) Add(e Event) { r.add(0, e) }

// Wait waits until each call that entered has ended, and fails after limit.
func (r *Recorder) Wait(limit time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed.L == nil {
		r.changed.L = &r.mu
	}
	timedOut := false
	timer := time.AfterFunc(limit, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		timedOut = true
		r.changed.Broadcast()
	})
	defer timer.Stop()
	for r.open > 0 && !timedOut {
		r.changed.Wait()
	}
	if r.open > 0 {
		return fmt.Errorf("rpctest: %d interceptors have not ended after %v; seen so far:\n%s", r.open, limit, strings.Join(lines(r.events), "\n"))
	}
	return nil
}

// Reset forgets all events and returns them.
func (r *Recorder) Reset() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events = nil
	return events
}

// Events returns the events of one side so far, in order.
func (r *Recorder) Events(side core.Side) []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var events []Event
	for _, e := range r.events {
		if e.Side == side {
			events = append(events, e)
		}
	}
	return events
}

func lines(events []Event) []string {
	out := make([]string, len(events))
	for i, e := range events {
		out[i] = e.String()
	}
	return out
}

// Diff shows how a record differs from the one wanted, an event a line: "-" before what is missing,
// "+" before what is too much, and blanks before what both have. It is empty if they are equal.
func Diff(want, got []Event) string {
	if slices.Equal(want, got) {
		return ""
	}
	// common[i][j] is how much want[i:] and got[j:] have in common.
	common := make([][]int, len(want)+1)
	for i := range common {
		common[i] = make([]int, len(got)+1)
	}
	for i, w := range slices.Backward(want) {
		for j, g := range slices.Backward(got) {
			if common[i][j] = max(common[i+1][j], common[i][j+1]); w == g {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	var out strings.Builder
	for i, j := 0, 0; i < len(want) || j < len(got); {
		switch {
		case i < len(want) && j < len(got) && want[i] == got[j]:
			fmt.Fprintf(&out, "  %s\n", want[i])
			i, j = i+1, j+1
		case j == len(got) || i < len(want) && common[i+1][j] >= common[i][j+1]:
			fmt.Fprintf(&out, "- %s\n", want[i])
			i++
		default:
			fmt.Fprintf(&out, "+ %s\n", got[j])
			j++
		}
	}
	return out.String()
}
