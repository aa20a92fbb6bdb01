package core

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// The context of hooks on a stream is as one of context.WithCancel, and ends with the stream.
func TestTheContextOfAHookEndsWithTheStream(t *testing.T) {
	type key struct{}
	for name, look := range map[string]func(ctx context.Context) (over func() bool){
		"waited for": func(ctx context.Context) func() bool {
			done := ctx.Done()
			return func() bool { <-done; return errors.Is(ctx.Err(), context.Canceled) }
		},
		"not looked at": func(ctx context.Context) func() bool {
			return func() bool { return errors.Is(ctx.Err(), context.Canceled) }
		},
		"derived": func(ctx context.Context) func() bool {
			inner, cancel := context.WithTimeout(ctx, time.Hour)
			t.Cleanup(cancel)
			return func() bool { <-inner.Done(); return errors.Is(inner.Err(), context.Canceled) }
		},
		"derived twice": func(ctx context.Context) func() bool {
			<-time.After(time.Minute)
			inner, cancel := context.WithCancel(context.WithValue(ctx, key{}, 2))
			t.Cleanup(cancel)
			called := make(chan struct{})
			context.AfterFunc(inner, func() { close(called) })
			return func() bool { <-called; return inner.Value(key{}) == 2 }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				parent, cancel := context.WithDeadline(context.WithValue(t.Context(), key{}, 1), time.Now().Add(2*time.Hour))
				defer cancel()
				c := &hookContext{Context: parent}
				over := look(c)
				if _, ok := c.Deadline(); name != "not looked at" && c.Err() != nil || !ok || c.Value(key{}) != 1 {
					t.Errorf("before the end: value %v", c.Value(key{}))
				}
				c.end()
				if !over() || parent.Err() != nil {
					t.Errorf("after the end: %v, the parent %v", c.Err(), parent.Err())
				}
			})
		})
	}
	ended := &hookContext{Context: t.Context()}
	ended.end()
	if err := context.Cause(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("the cause of the end is %v", err)
	}
	parent, cancel := context.WithCancel(t.Context())
	c := &hookContext{Context: parent}
	done := c.Done()
	cancel()
	<-done // with its parent, too
}
