package core

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
)

// ClientStream runs the chain of a client stream in a goroutine of its own and
// joins it to the application, which drives the stream. Adapters embed it, translate what the
// application calls into its methods, and their errors into the stack's.
//
// The stream is in one of four states. It is running while the chain opens a stream or unwinds, with
// no attempt at hand (current is nil, over is false). It is parked while an attempt is open and the innermost
// next waits (current is set). An attempt that has ended with its outcome settled is ending: hooks under way are
// awaited, then next returns. Over means that the chain has returned. These rules hold it together:
//
//   - Whoever ends an attempt settles its outcome first; its context is canceled after.
//   - A Receive in flight owns the end by context: it hears of it anyway and may bring a message first.
//   - What is learned of an attempt that has ended changes nothing.
//   - No lock is held while the chain, a hook or the native stream runs.
//
// One goroutine may send while another receives; Close may be called beside both.
type ClientStream struct {
	transport StreamTransport
	root      *Call
	ctx       context.Context //nolint:containedctx // of the chain's goroutine
	cancel    context.CancelFunc

	mu      sync.Mutex
	changed sync.Cond // current or over changed, or the replay is done
	current *streamAttempt
	opened  bool  // an attempt was parked, once
	native  bool  // the last attempt ended in a success of the native stream
	over    bool  // the chain has returned
	err     error // with over: the application's result, nil for success
	raise   *Panic
	goexit  bool
	closed  bool // the application has closed the stream
	got     int  // responses that the application got

	// What attempts need: the requests so far, to send them again.
	recording bool
	record    []sendOp
	recorded  int   // bytes
	committed *Call // the attempt of which the application has seen something
}

// maxRecord bounds what is kept of the requests of a stream to send them again.
const maxRecord = 256 << 10

// sendOp is something that the application sent. A nil msg is a header flush.
type sendOp struct {
	msg       any
	closeSend bool
}

func (op sendOp) isMessage() bool { return !op.closeSend && op.msg != nil }

func (op sendOp) do(s Stream) error {
	if op.closeSend {
		return s.CloseSend()
	}
	return s.Send(op.msg)
}

// streamAttempt is one opening of the stream: the only one, unless an interceptor retries.
type streamAttempt struct {
	call      *Call
	stream    Stream
	done      chan struct{} // closed when the outcome is settled
	outcome   error
	ended     bool
	receiving int   // Receive and Header in flight
	late      error // why it should end once they are back
	replaying bool
	replayed  int // ops of the record that it got
}

// Start runs the chain. root must have been made ready by [Call.Init]; its transport must be a
// [StreamTransport].
func (s *ClientStream) Start(ctx context.Context, handler Handler, root *Call) {
	s.transport = root.transport.(StreamTransport) //nolint:forcetypeassert // documented
	s.root = root
	s.changed.L = &s.mu
	s.ctx, s.cancel = context.WithCancel(ctx)
	root.stream = s
	go s.run(handler)
}

// run is the chain's goroutine.
func (s *ClientStream) run(handler Handler) {
	returned := false
	var err error
	defer func() {
		var raise *Panic
		if !returned {
			if value := recover(); value != nil {
				raise = asPanic(value)
			}
			err = &fault{CodeInternal, PublicMessage(CodeInternal)}
		}
		s.finish(err, raise, !returned && raise == nil)
	}()
	err = handler(s.ctx, s.root)
	returned = true
}

// finish is the end of the stream.
func (s *ClientStream) finish(err error, raise *Panic, goexit bool) {
	s.mu.Lock()
	if err == nil && s.root.shape == ShapeClientStream && s.got == 0 && !s.native && s.root.Response() == nil {
		err = s.root.missingResponse()
	}
	if err != nil {
		err = s.transport.Edge(err)
	}
	if a := s.current; a != nil {
		// An interceptor has given up on a next in a goroutine of its own.
		s.settle(a, &fault{CodeCanceled, "the interceptor that called next has returned"})
	}
	s.over, s.err, s.raise, s.goexit = true, err, raise, goexit
	s.record = nil
	s.changed.Broadcast()
	s.mu.Unlock()
	s.cancel()
	if hooks := s.root.hooks; hooks != nil {
		hooks.close()
	}
}

// drive is the innermost next of a client stream.
func (s *ClientStream) drive(ctx context.Context, call *Call) (err error) {
	defer func() {
		if call.hooks != nil {
			call.hooks.close()
		}
	}()
	if err := s.admit(call); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.transport.Open(ctx, call)
	if err != nil {
		return call.finish(call.Normalize(err))
	}
	a := &streamAttempt{call: call, stream: stream, done: make(chan struct{})}
	s.park(a)
	select {
	case <-a.done:
	case <-ctx.Done():
		s.expire(a, ctx.Err())
		<-a.done
	}
	cancel()
	stream.Close()
	return call.finish(call.Normalize(a.outcome))
}

// admit says whether an attempt may be opened now.
func (s *ClientStream) admit(call *Call) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over || s.closed:
		return &fault{CodeCanceled, "the stream is closed"}
	case s.committed != nil:
		return faultf(CodeFailedPrecondition, "attempt %d of the stream is committed: another one is not possible", s.committed.Attempt())
	case call.attempt != nil:
		if err := s.root.Stuck(); err != nil {
			return err
		}
		s.recording = true
	}
	return nil
}

// park hands the attempt to the application, and what the application has sent to the attempt.
func (s *ClientStream) park(a *streamAttempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.closed {
		s.settle(a, &fault{CodeCanceled, "the stream is closed"})
		return
	}
	s.current, s.opened, s.native = a, true, false
	a.replaying = true
	s.changed.Broadcast()
	for a.replayed < len(s.record) && !a.ended {
		op := s.record[a.replayed]
		a.replayed++
		s.mu.Unlock()
		err := s.transmit(a, op)
		s.mu.Lock()
		if err != nil && !errors.Is(err, io.EOF) {
			s.settle(a, err)
		}
	}
	a.replaying = false
	s.forget()
	s.changed.Broadcast()
}

// forget drops the record when no attempt will need it.
func (s *ClientStream) forget() {
	if s.committed != nil && (s.current == nil || !s.current.replaying) {
		s.record = nil
	}
}

// settle fixes the outcome of an attempt, once.
func (s *ClientStream) settle(a *streamAttempt, outcome error) {
	if a.ended {
		return
	}
	a.ended, a.outcome = true, outcome
	if s.current == a {
		s.current = nil
	}
	s.native = outcome == nil
	close(a.done)
}

// expire ends an attempt for a reason that a Receive in flight will hear too.
func (s *ClientStream) expire(a *streamAttempt, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.receiving > 0 {
		a.late = err
		return
	}
	s.settle(a, err)
}

// Expire tells that the native stream ended with err by itself, for adapters whose stack knows
// before anyone receives. The open attempt of call ends with it.
func (s *ClientStream) Expire(call *Call, err error) {
	s.mu.Lock()
	a := s.current
	s.mu.Unlock()
	if a != nil && a.call == call && err != nil {
		s.expire(a, err)
	}
}

// await returns the open attempt, or nil when the stream is over. It waits for one or the other, with the lock held.
func (s *ClientStream) await() *streamAttempt {
	for s.current == nil && !s.over {
		s.changed.Wait()
	}
	if s.over {
		return nil
	}
	return s.current
}

// awaitOver waits until the chain has returned, raises what it panicked with, and
// returns its result. The lock is held on entry and free on return.
func (s *ClientStream) awaitOver() error {
	for !s.over {
		s.changed.Wait()
	}
	raise, goexit, err := s.raise, s.goexit, s.err
	s.raise, s.goexit = nil, false
	s.mu.Unlock()
	if raise != nil {
		raise.raise()
	}
	if goexit {
		runtime.Goexit()
	}
	return err
}

// WaitOpen waits until the stream is open, or over without ever having been:
// then it returns the chain's result.
func (s *ClientStream) WaitOpen() error {
	s.mu.Lock()
	if s.await(); s.opened {
		s.mu.Unlock()
		return nil
	}
	return s.awaitOver()
}

// Send sends a message; nil flushes the header. It returns io.EOF itself when
// the stream is over and Receive tells why, else the application's error.
func (s *ClientStream) Send(msg any) error { return s.send(sendOp{msg: msg}) }

// CloseSend ends the requests. It is nil on a stream that has ended.
func (s *ClientStream) CloseSend() error {
	err := s.send(sendOp{closeSend: true})
	if s.wasOpened() {
		return nil
	}
	return err
}

func (s *ClientStream) wasOpened() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened
}

func (s *ClientStream) send(op sendOp) error {
	s.mu.Lock()
	for !s.over && !s.keeps() && (s.current == nil || s.current.replaying) {
		s.changed.Wait()
	}
	if s.over {
		return s.sendOver()
	}
	keeps, recording := s.keeps(), s.recording
	a := s.current
	s.mu.Unlock()
	if recording && op.isMessage() { // the hooks outside of the attempts
		if err := s.root.meet(true, op.msg); err != nil {
			return s.failSend(a, err)
		}
	}
	if keeps {
		var kept bool
		if a, kept = s.keep(op); a == nil {
			if kept {
				return nil
			}
			s.mu.Lock()
			return s.sendOver()
		}
	}
	err := s.transmit(a, op)
	switch {
	case err == nil:
		return nil
	case keeps && s.canRetry():
		if !errors.Is(err, io.EOF) {
			s.mu.Lock()
			s.settle(a, err)
			s.mu.Unlock()
		}
		return nil // Receive drives the next attempt
	case errors.Is(err, io.EOF):
		return io.EOF
	}
	return s.failSend(a, err)
}

// failSend ends the attempt with an error that sending met, and returns what comes of it.
func (s *ClientStream) failSend(a *streamAttempt, err error) error {
	s.mu.Lock()
	if a == nil {
		a = s.await()
	}
	if a != nil {
		s.settle(a, err)
	}
	return s.sendOver()
}

// sendOver is the result of a send on a stream that is over, or about to be.
func (s *ClientStream) sendOver() error {
	if err := s.awaitOver(); err != nil {
		return err
	}
	return io.EOF
}

// keeps reports whether what is sent is recorded. The lock is held.
func (s *ClientStream) keeps() bool { return s.recording && s.committed == nil }

func (s *ClientStream) canRetry() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keeps()
}

// keep records op for further attempts. It returns the attempt that must get it
// now, or nil: then the record's replay brings it (kept), or the stream is over.
func (s *ClientStream) keep(op sendOp) (a *streamAttempt, kept bool) {
	var size int
	if op.isMessage() {
		// A copy: the application may use its message again.
		op.msg, size = s.transport.Clone(op.msg)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keeps() && s.recorded+size > maxRecord {
		// Too much to keep: the attempt at hand, or the next one, is the last.
		for !s.over && (s.current == nil || s.current.replaying) {
			s.changed.Wait()
		}
		if !s.over {
			s.commit(s.current)
		}
	}
	for !s.keeps() { // committed meanwhile
		if s.over {
			return nil, false
		}
		if s.current != nil && !s.current.replaying {
			return s.current, false
		}
		s.changed.Wait()
	}
	if s.over {
		return nil, false
	}
	s.record = append(s.record, op)
	s.recorded += size
	if s.current == nil || s.current.replaying {
		return nil, true
	}
	s.current.replayed++
	return s.current, true
}

// transmit sends op on the attempt, through the attempt's own hooks.
func (s *ClientStream) transmit(a *streamAttempt, op sendOp) error {
	if op.isMessage() && a.call.hooks != nil {
		if a.call.attempt != nil {
			op.msg, _ = s.transport.Clone(op.msg) // the hooks may change it
		}
		if err := a.call.meet(true, op.msg); err != nil {
			return err
		}
	} else if err := a.call.Stuck(); err != nil {
		return err
	}
	return op.do(a.stream)
}

// Receive fills msg with the next response. It returns io.EOF itself at the end
// of a success, else what the chain made of the end.
func (s *ClientStream) Receive(msg any) error {
	for {
		s.mu.Lock()
		a := s.await()
		if a == nil {
			return s.receiveOver(msg)
		}
		a.receiving++
		s.mu.Unlock()
		err := a.stream.Receive(msg)
		if err == nil {
			err = s.received(a, msg)
		}
		s.mu.Lock()
		a.receiving--
		stale := a.ended
		switch {
		case stale: // settled by someone else: what came is too late
		case err != nil:
			if err == io.EOF { //nolint:errorlint // the adapter gives itself
				err = nil
			}
			s.settle(a, err)
		case s.transport.SingleResponse() && s.root.shape == ShapeClientStream:
			s.got++
			s.settle(a, nil)
			return s.awaitOver()
		default:
			s.got++
			if a.late != nil && a.receiving == 0 {
				s.settle(a, a.late)
			}
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
	}
}

// received lets the hooks see a response: those of the attempt, and after the
// application is bound to see it, those outside.
func (s *ClientStream) received(a *streamAttempt, msg any) error {
	if err := a.call.meet(false, msg); err != nil {
		return err
	}
	if a.call.attempt == nil {
		return nil
	}
	s.mu.Lock()
	if a.ended {
		s.mu.Unlock()
		return errOver
	}
	s.commit(a)
	s.mu.Unlock()
	return s.root.meet(false, msg)
}

// commit makes the attempt the last one. The lock is held.
func (s *ClientStream) commit(a *streamAttempt) {
	if a.call.attempt == nil || s.committed != nil {
		return
	}
	s.committed = a.call
	s.root.Adopt(a.call)
	s.forget()
}

func (s *ClientStream) isCommitted(call *Call) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.committed == call
}

// receiveOver is the result of a Receive on a stream that is over. The lock is held on entry.
func (s *ClientStream) receiveOver(msg any) error {
	if err := s.awaitOver(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.root.shape != ShapeClientStream || s.got > 0 || s.root.Response() == nil {
		return io.EOF
	}
	// An interceptor has answered.
	s.got++
	if err := s.transport.Copy(msg, s.root.Response()); err != nil {
		return s.transport.Edge(err)
	}
	return nil
}

// Header waits for the response header, or for the end. Only a header that came
// commits an attempt; one that failed before is left to Receive, which drives the next.
func (s *ClientStream) Header() error {
	s.mu.Lock()
	a := s.await()
	if a == nil {
		return s.awaitOver()
	}
	a.receiving++
	s.mu.Unlock()
	came := a.stream.Header()
	s.mu.Lock()
	defer s.mu.Unlock()
	a.receiving--
	if a.ended {
		return nil
	}
	if came {
		s.commit(a)
	}
	if a.late != nil && a.receiving == 0 {
		s.settle(a, a.late)
	}
	return nil
}

// Close ends the stream early, which is Canceled for the chain. It returns nil,
// unless the chain makes another error of that, or the stream was never open.
func (s *ClientStream) Close() error {
	s.mu.Lock()
	ended := s.over
	s.closed = true
	early := &fault{CodeCanceled, "the application closed the stream"}
	if a := s.current; a != nil {
		if s.root.shape == ShapeClientStream && s.got > 0 {
			s.settle(a, nil) // it has all that it wanted
		} else {
			s.settle(a, early)
		}
	} else if s.recording && s.committed == nil || !s.opened {
		s.cancel() // no attempt is open: the chain waits, or opens one
	}
	err := s.awaitOver()
	if ended && s.wasOpened() || !ended && CodeOf(s.root.Normalize(err)) == CodeCanceled {
		return nil
	}
	return err
}

// Over reports whether the stream is over, so that what was received of metadata is final.
func (s *ClientStream) Over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}
