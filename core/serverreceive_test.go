package core

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
)

// source receives what is sent to it.
type source chan func() error

func (s source) ReceiveRequest(any) error { return (<-s)() }

func TestRequestWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		native, end := context.WithCancel(t.Context())
		defer end()
		ctx, cancel := context.WithCancel(native)
		var w RequestWaiter
		s := make(source, 1)
		broken := errors.New("broken")
		for _, want := range []error{nil, broken} {
			s <- func() error { return want }
			if err := w.Receive(ctx, native, s, nil); !errors.Is(err, want) {
				t.Errorf("Receive = %v, want %v", err, want)
			}
		}
		s <- func() error { panic(broken) }
		func() {
			defer func() {
				if p, ok := recover().(*Panic); !ok || !errors.Is(p, broken) {
					t.Errorf("a panic of the native receive became %v", p)
				}
			}()
			_ = w.Receive(ctx, native, s, nil)
		}()
		waiting := make(chan error)
		go func() { waiting <- w.Receive(ctx, native, s, nil) }()
		synctest.Wait()
		cancel()
		for _, err := range []error{<-waiting, w.Receive(ctx, native, s, nil)} {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Receive = %v after its context has ended", err)
			}
		}
		w.Close()
		s <- func() error { return nil } // the abandoned one ends with the stream, and so does the goroutine, or the bubble would not
	})
}

// A handler may return while a goroutine of its own receives, for the first time even.
func TestRequestWaiterOfAHandlerThatHasReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		native, end := context.WithCancel(t.Context())
		defer end()
		ctx, cancel := context.WithCancel(native)
		defer cancel()
		var early, late RequestWaiter
		s := make(source, 1)
		received := make(chan error)
		go func() { received <- early.Receive(ctx, native, s, nil) }()
		synctest.Wait()
		early.Close()
		broken := errors.New("broken")
		s <- func() error { return broken }
		if err := <-received; !errors.Is(err, broken) {
			t.Errorf("Receive = %v", err)
		}
		late.Close()
		if err := late.Receive(ctx, native, s, nil); CodeOf(err) != CodeCanceled { // or a goroutine would be left in the bubble
			t.Errorf("Receive = %v after the handler has returned", err)
		}
	})
}

func TestRequestWaiterHandsGoexitOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		native, end := context.WithCancel(t.Context())
		defer end()
		ctx, cancel := context.WithCancel(native)
		var w RequestWaiter
		s := make(source, 1)
		s <- func() error { runtime.Goexit(); return nil }
		exited := make(chan struct{})
		go func() {
			defer close(exited)
			t.Errorf("Receive = %v", w.Receive(ctx, native, s, nil))
		}()
		synctest.Wait()
		select {
		case <-exited:
		default:
			t.Error("it waits for what never comes")
		}
		cancel()
		w.Close()
	})
}

// A stream whose context nobody has made shorter has no goroutine, and one that has pays nothing for a message.
func TestRequestWaiterCost(t *testing.T) {
	native, end := context.WithCancel(t.Context())
	defer end()
	type key struct{}
	s := make(source, 1)
	fine := func() error { return nil }
	for name, ctx := range map[string]context.Context{
		"the same": native, "with a value": context.WithValue(native, key{}, 1), "without an end": context.WithoutCancel(native),
	} {
		var w RequestWaiter
		if n := testing.AllocsPerRun(100, func() { s <- fine; _ = w.Receive(ctx, native, s, nil) }); n > 0 || w.in != nil {
			t.Errorf("%s: %v allocations, a goroutine: %t", name, n, w.in != nil)
		}
	}
	ctx, cancel := context.WithCancel(native)
	defer cancel()
	var w RequestWaiter
	defer w.Close()
	if n := testing.AllocsPerRun(100, func() { s <- fine; _ = w.Receive(ctx, native, s, nil) }); n > 0 {
		t.Errorf("shorter: %v allocations", n)
	}
}
