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
	changed sync.Cond      // current or over changed, or the replay is done
	current *streamAttempt // parked
	driven  *streamAttempt // by the innermost next, from before it is opened
	opened  bool           // an attempt was parked, once
	native  bool           // the last attempt ended in a success of the native stream
	over    bool           // the chain has returned
	err     error          // with over: the application's result, nil for success
	raise   *Panic
	goexit  bool
	closed  bool // the application has closed the stream
	got     int  // responses that the application got
	reply   any  // of an interceptor

	// What attempts need: the requests so far, to send them again.
	recording bool
	record    []sendOp
	recorded  int   // bytes
	committed *Call // the attempt of which the application has seen something
}

// maxRecord bounds what is kept of the requests of a stream to send them again.
const maxRecord = 256 << 10

// opSize is what an entry of the record counts at least.
const opSize = 64

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
	cancel    context.CancelFunc
	stream    Stream
	done      chan struct{} // closed when the outcome is settled
	outcome   error
	ended     bool
	receiving int   // Receive and Header in flight
	late      error // why it should end once they are back
	replaying bool
	once      sync.Once
}

// close ends the native stream, once.
func (a *streamAttempt) close() { a.once.Do(a.stream.Close) }

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
			err = s.transport.Edge(&fault{CodeInternal, PublicMessage(CodeInternal)})
		}
		s.finish(err, raise, !returned && raise == nil)
	}()
	if err = handler(s.ctx, s.root); err == nil {
		err = s.takeReply()
	}
	if err != nil {
		err = s.transport.Edge(err)
	}
	returned = true
}

// takeReply keeps what an interceptor answered. It is an error if the chain has made a success of a
// call that has no response for the application.
func (s *ClientStream) takeReply() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reply = s.root.reply()
	if s.root.shape == ShapeClientStream && s.got == 0 && !s.native && s.reply == nil {
		return s.root.missingResponse()
	}
	return nil
}

// finish is the end of the stream.
func (s *ClientStream) finish(err error, raise *Panic, goexit bool) {
	s.mu.Lock()
	if a := s.driven; a != nil {
		// An interceptor has given up on a next in a goroutine of its own.
		s.settle(a, &fault{CodeCanceled, "the interceptor that called next has returned"})
	}
	s.over, s.err, s.raise, s.goexit = true, err, raise, goexit
	s.record = nil
	s.changed.Broadcast()
	s.mu.Unlock()
	s.cancel()
	if hooks := s.root.hooks.Load(); hooks != nil {
		hooks.close()
	}
}

// drive is the innermost next of a client stream.
func (s *ClientStream) drive(ctx context.Context, call *Call) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	a := &streamAttempt{call: call, cancel: cancel, done: make(chan struct{})}
	if err := s.admit(a); err != nil {
		cancel()
		return call.finish(err)
	}
	defer s.release(a) // also when something panics or exits
	a.stream, err = s.transport.Open(ctx, call)
	if err != nil {
		return call.finish(call.Normalize(err))
	}
	s.park(a)
	select {
	case <-a.done:
	case <-ctx.Done():
		s.expire(a, ctx.Err())
		a.close() // not every stack tells a Receive in flight of the context
		<-a.done
	}
	return call.finish(call.Normalize(a.outcome))
}

// admit makes a the attempt at hand, if there may be one.
func (s *ClientStream) admit(a *streamAttempt) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over || s.closed:
		return &fault{CodeCanceled, "the stream is closed"}
	case s.committed != nil:
		return faultf(CodeFailedPrecondition, "attempt %d of the stream is committed: another one is not possible", s.committed.Attempt())
	case a.call.attempt.parent != nil:
		if err := s.root.Stuck(); err != nil {
			return err
		}
		s.recording = true
	}
	if s.driven != nil {
		// An interceptor has given up on a next in a goroutine of its own.
		s.settle(s.driven, &fault{CodeCanceled, "another attempt has begun"})
	}
	s.driven = a
	return nil
}

// release is the end of drive.
func (s *ClientStream) release(a *streamAttempt) {
	s.mu.Lock()
	s.settle(a, errOver)
	if s.driven == a {
		s.driven = nil
	}
	s.mu.Unlock()
	if a.stream != nil {
		a.close()
	}
	if hooks := a.call.hooks.Load(); hooks != nil {
		hooks.close()
	}
}

// park hands the attempt to the application, and what the application has sent to the attempt.
func (s *ClientStream) park(a *streamAttempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case a.ended:
		return
	case s.over || s.closed:
		s.settle(a, &fault{CodeCanceled, "the stream is closed"})
		return
	}
	s.current, s.opened, s.native = a, true, false
	a.replaying = true
	s.changed.Broadcast()
	for i := 0; i < len(s.record) && !a.ended; i++ {
		op := s.record[i]
		var err error
		func() {
			s.mu.Unlock()
			defer s.mu.Lock()
			err = s.transmit(a, op)
		}()
		if err != nil && !errors.Is(err, io.EOF) {
			s.settle(a, err)
		}
	}
	a.replaying = false
	s.forget()
	if a.late != nil && a.receiving == 0 {
		s.settle(a, a.late)
	}
	s.changed.Broadcast()
}

// forget drops the record when no attempt will need it.
func (s *ClientStream) forget() {
	if s.committed != nil && (s.current == nil || !s.current.replaying) {
		s.record = nil
	}
}

// settle fixes the outcome of an attempt, once, and then lets go of what waits for it.
func (s *ClientStream) settle(a *streamAttempt, outcome error) {
	if a.ended {
		return
	}
	if outcome == io.EOF { //nolint:errorlint // the adapter gives itself
		outcome = nil
	}
	a.ended, a.outcome = true, outcome
	if s.current == a {
		s.current = nil
	}
	if s.driven == a {
		s.native = outcome == nil
	}
	close(a.done)
	a.cancel()
	if hooks := a.call.hooks.Load(); hooks != nil {
		hooks.interrupt()
	}
}

// expire ends an attempt for a reason that a Receive in flight will hear too.
func (s *ClientStream) expire(a *streamAttempt, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.receiving == 0 && a.stream != nil {
		s.settle(a, err)
		return
	}
	a.late = err
	// It may be in a hook, whose context may be an outer one.
	if hooks := a.call.hooks.Load(); hooks != nil {
		hooks.interrupt()
	}
	if hooks := s.root.hooks.Load(); hooks != nil && s.committed == a.call {
		hooks.interrupt()
	}
}

// Expire tells that the native stream ended with err by itself, for adapters whose stack knows
// before anyone receives: io.EOF is the end of a success. The attempt that was opened for call ends with it. A nil err changes nothing.
func (s *ClientStream) Expire(call *Call, err error) {
	s.mu.Lock()
	a := s.driven
	if a == nil || a.call != call || err == nil {
		s.mu.Unlock()
		return
	}
	parked := s.current == a
	if !parked {
		a.late = err // park will see it
	}
	s.mu.Unlock()
	if parked {
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
	if err == io.EOF || s.wasOpened() { //nolint:errorlint // our own
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
			return s.failSend(err)
		}
	}
	kept := false
	if keeps {
		if a, kept = s.keep(op); a == nil {
			if kept {
				return nil
			}
			s.mu.Lock()
			return s.sendOver()
		}
	}
	err := s.transmit(a, op)
	if err == nil {
		return nil
	}
	s.mu.Lock()
	if kept && s.committed != a.call {
		// It is recorded, and Receive drives the next attempt.
		if !errors.Is(err, io.EOF) {
			s.settle(a, err)
		}
		s.mu.Unlock()
		return nil
	}
	if errors.Is(err, io.EOF) {
		s.mu.Unlock()
		return io.EOF
	}
	s.settle(a, err)
	return s.sendOver()
}

// failSend ends the stream with an error of a hook that stuck: whatever attempt is at hand, and no other follows.
func (s *ClientStream) failSend(err error) error {
	s.mu.Lock()
	for !s.over {
		if s.current != nil {
			s.settle(s.current, err)
		}
		s.changed.Wait()
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

// keep records op for further attempts. It returns the attempt that must get it
// now, or nil: then the record's replay brings it (kept), or the stream is over.
func (s *ClientStream) keep(op sendOp) (a *streamAttempt, kept bool) {
	size := opSize
	if op.isMessage() {
		// A copy: the application may use its message again.
		var bytes int
		if op.msg, bytes = s.transport.Clone(op.msg); bytes < 0 {
			bytes = maxRecord + 1
		}
		size = max(size, bytes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keeps() && s.recorded+size > maxRecord {
		// Too much to keep, or no copy to be had: the attempt at hand, or the next one, is the last.
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
	return s.current, true
}

// transmit sends op on the attempt, through the attempt's own hooks.
func (s *ClientStream) transmit(a *streamAttempt, op sendOp) error {
	if op.isMessage() && a.call.hooks.Load() != nil {
		if a.call.attempt.parent != nil {
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
		if delivered, done := s.receiveFrom(a, msg); done {
			return delivered
		}
	}
}

// receiveFrom receives on an attempt. It is not done when the attempt has ended: then
// there is another one, or the result.
func (s *ClientStream) receiveFrom(a *streamAttempt, msg any) (err error, done bool) { //nolint:revive // err is a result here
	returned := false
	defer func() {
		if !returned { // a codec or a hook has panicked or exited, into the application
			s.mu.Lock()
			s.received(a)
			s.mu.Unlock()
		}
	}()
	err = a.stream.Receive(msg)
	hooked := err == nil
	if hooked {
		err = s.meetResponse(a, msg)
	}
	returned = true
	s.mu.Lock()
	stale := a.ended
	switch {
	case stale: // settled by someone else: what came is too late
	case err != nil:
		if hooked && a.late != nil {
			err = a.late // a hook gave up because of it
		}
		s.settle(a, err)
	case s.transport.SingleResponse() && s.root.shape == ShapeClientStream:
		s.got++
		s.settle(a, nil)
		s.received(a)
		return s.awaitOver(), true
	default:
		s.got++
		s.received(a)
		s.mu.Unlock()
		return nil, true
	}
	s.received(a)
	s.mu.Unlock()
	return nil, false
}

// received is the end of a Receive or a Header, which kept the attempt from ending otherwise.
func (s *ClientStream) received(a *streamAttempt) {
	a.receiving--
	if a.late != nil && a.receiving == 0 {
		s.settle(a, a.late)
	}
}

// meetResponse lets the hooks see a response: those of the attempt, and after the
// application is bound to see it, those outside.
func (s *ClientStream) meetResponse(a *streamAttempt, msg any) error {
	if err := a.call.meet(false, msg); err != nil {
		return err
	}
	if a.call.attempt.parent == nil {
		return nil
	}
	s.mu.Lock()
	if a.ended {
		s.mu.Unlock()
		return errOver
	}
	s.commit(a)
	if hooks := s.root.hooks.Load(); a.late != nil && hooks != nil {
		hooks.interrupt()
	}
	s.mu.Unlock()
	return s.root.meet(false, msg)
}

// commit makes the attempt the last one. The lock is held.
func (s *ClientStream) commit(a *streamAttempt) {
	if a.call.attempt.parent == nil || s.committed != nil {
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
	if s.root.shape != ShapeClientStream || s.got > 0 || s.reply == nil {
		return io.EOF
	}
	// An interceptor has answered.
	s.got++
	if err := s.transport.Copy(msg, s.reply); err != nil {
		s.err = s.transport.Edge(s.root.Normalize(err))
	}
	return s.err
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
	came := false
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if came && !a.ended {
			s.commit(a)
		}
		s.received(a)
	}()
	came = a.stream.Header()
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
	}
	if s.keeps() || !s.opened {
		s.cancel() // the chain waits, or opens an attempt
	}
	err := s.awaitOver()
	if ended && s.wasOpened() || !ended && CodeOf(s.root.Normalize(err)) == CodeCanceled {
		return nil
	}
	return err
}

// Over reports whether the chain has returned, so that all that follows is its result.
func (s *ClientStream) Over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}
