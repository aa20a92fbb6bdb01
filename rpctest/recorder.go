package rpctest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rpcweft/weft/core"
)

// Recorder writes down what its interceptors see of calls, in order, on any
// side. It may be used by many goroutines.
type Recorder struct {
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
	// Text says more: of a message its content, of an entry the call, of an end code and error.
	Text string
}

// String returns "server a: request hello".
func (e Event) String() string { return fmt.Sprintf("%s %s: %s %s", e.Side, e.Name, e.What, e.Text) }

// Interceptor returns an interceptor that records what it sees under a name.
func (r *Recorder) Interceptor(name string) core.Interceptor {
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) (err error) {
		r.add(1, Event{name, call.Side(), "enter", fmt.Sprintf("%s %s", call.Shape(), call.Method())})
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
