package errors

import (
	stderrors "errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rpcweft/weft/core"
)

// Error is an error with a code. What the peer may know (code, message, details,
// metadata) and what is for us (the cause) are kept apart in it.
//
// An *Error never changes and may be used by several goroutines: the methods that
// add something return a copy. A copy still matches, for [Is], the error that it was made of, so
// that errors may be package variables:
//
//	var ErrNoThing = errors.NotFound("no such thing")
//
//	return ErrNoThing.WithCause(err) // errors.Is(..., ErrNoThing) holds
//
// A nil *Error that is returned as an error is a bug, and reaches the peer as Internal.
type Error struct {
	code     core.Code
	message  string
	cause    error
	details  []core.Detail
	metadata *core.Metadata
	upstream bool
	from     *Error   // of which this one is a copy
	unsent   []string // what cannot be sent, and why

	// Of a stack's own error only:
	whole    error
	original error
	native   func() []*anypb.Any // its details
}

var (
	_ core.CodedError    = (*Error)(nil)
	_ core.DetailedError = (*Error)(nil)
	_ core.MetadataError = (*Error)(nil)
	_ core.UpstreamError = (*Error)(nil)
	_ slog.LogValuer     = (*Error)(nil)
)

var errNil = &Error{
	code: core.CodeInternal, message: core.PublicMessage(core.CodeInternal),
	cause: stderrors.New("a nil *errors.Error was returned as an error"),
}

func (e *Error) self() *Error {
	if e == nil {
		return errNil
	}
	return e
}

// Code returns the code. That of a stack's own error may be OK or out of range,
// which [CodeOf] takes for Internal.
func (e *Error) Code() core.Code { return e.self().code }

// Message returns what the peer may read.
func (e *Error) Message() string { return e.self().message }

// Error returns the text for logs, which has more than the peer may know: code,
// message, the text of the cause, and what cannot be sent. For a stack's own error it is the stack's text.
func (e *Error) Error() string {
	e = e.self()
	text := e.code.String() + ": " + e.message
	if e.whole != nil {
		text = e.whole.Error()
	}
	if e.cause != nil {
		text += fmt.Sprintf(": %v", e.cause) // fmt survives an Error method that panics
	}
	if len(e.unsent) > 0 {
		text += " (not sent: " + strings.Join(e.unsent, "; ") + ")"
	}
	return text
}

// Unwrap returns the cause, nil if there is none. For a stack's own error it is the
// error as the stack knows it, joined with the cause that it was given.
func (e *Error) Unwrap() error {
	switch e = e.self(); {
	case e.whole == nil:
		return e.cause
	case e.cause == nil:
		return e.whole
	}
	return stderrors.Join(e.whole, e.cause)
}

// Is reports whether e is a copy of target, for [Is].
func (e *Error) Is(target error) bool {
	for e = e.self(); e != nil; e = e.from {
		if target == error(e) {
			return true
		}
	}
	return false
}

// Details returns the details in order, nil if there are none. They must not be
// changed. [DetailOf] decodes them.
func (e *Error) Details() []core.Detail {
	e = e.self()
	if e.native == nil {
		return slices.Clip(e.details)
	}
	var list []core.Detail
	for _, d := range e.native() {
		list = append(list, core.Detail{TypeURL: d.GetTypeUrl(), Value: d.GetValue()})
	}
	return list
}

// Metadata returns the metadata that goes with the error, nil if there is none.
// It can be read only. On a client it is the merged response metadata.
func (e *Error) Metadata() *core.Metadata { return e.self().metadata }

// Upstream reports whether the error was received from a further server. Its
// metadata is never sent on.
func (e *Error) Upstream() bool { return e.self().upstream }

// Original returns the stack's own error that this one stands for, for adapters.
// It is nil for errors made by this package, and for copies that have more for the peer than the original.
func (e *Error) Original() error { return e.self().original }

// LogValue implements [slog.LogValuer] with a group of what there is of code,
// message, cause, the types of the details, the keys of the metadata (never its values), and what cannot be sent.
func (e *Error) LogValue() slog.Value {
	e = e.self()
	attrs := []slog.Attr{slog.String("code", e.code.String()), slog.String("message", e.message)}
	if cause := e.Unwrap(); cause != nil {
		attrs = append(attrs, slog.String("cause", fmt.Sprint(cause)))
	}
	list := func(name string, values []string) {
		if len(values) > 0 {
			attrs = append(attrs, slog.Any(name, values))
		}
	}
	details := e.Details()
	types := make([]string, len(details))
	for i, d := range details {
		types[i] = typeName(d.TypeURL)
	}
	var keys []string
	for key := range e.metadata.All() {
		keys = append(keys, key)
	}
	list("details", types)
	list("metadata", keys)
	list("not_sent", e.unsent)
	return slog.GroupValue(attrs...)
}

// WithDetails returns a copy with more details for the peer. They are serialized
// at once, so that the messages may be changed afterwards; an *anypb.Any is taken as it is. A message that cannot be
// serialized is left out, and Error says so. It panics if one is nil.
func (e *Error) WithDetails(msgs ...proto.Message) *Error {
	c := e.copy()
	c.details, c.native, c.original = slices.Clone(e.Details()), nil, nil
	for i, msg := range msgs {
		if msg == nil || !msg.ProtoReflect().IsValid() {
			panic(fmt.Sprintf("errors: WithDetails: message %d of %d is nil", i+1, len(msgs)))
		}
		detail, err := pack(msg)
		if err != nil {
			c.unsent = append(c.unsent, fmt.Sprintf("detail %s: %v", nameOf(msg), err))
			continue
		}
		c.details = append(c.details, detail)
	}
	return c
}

// WithMetadata returns a copy with more metadata for the peer, from pairs of key
// and value. It travels in the trailer. Pairs that cannot be sent (see [core.Metadata]) are left out, and Error names their
// keys; nor is any metadata of an upstream error sent. It panics if the number of strings is odd.
func (e *Error) WithMetadata(pairs ...string) *Error {
	if len(pairs)%2 != 0 {
		panic("errors: WithMetadata wants pairs of key and value, got an odd number of strings")
	}
	c := e.copy()
	c.original = nil
	md, _ := core.NewTrailer()
	add := func(key, value string) {
		if err := md.Add(key, value); err != nil {
			c.unsent = append(c.unsent, core.FindCoded(err, nil).Message())
		}
	}
	for key, values := range e.Metadata().All() {
		for _, value := range values {
			add(key, value)
		}
	}
	for i := 0; i < len(pairs); i += 2 {
		add(pairs[i], pairs[i+1])
		if c.upstream {
			c.unsent = append(c.unsent, fmt.Sprintf("metadata %q of an upstream error", pairs[i]))
		}
	}
	md.Seal("it belongs to an error")
	if c.metadata = md; md.Len() == 0 {
		c.metadata = nil
	}
	return c
}

// WithCause returns a copy with err as its cause: for logs, [Is] and [As], never
// for the peer. A cause that it has already is kept too, joined. With nil it adds nothing.
func (e *Error) WithCause(err error) *Error {
	c := e.copy()
	switch {
	case c.cause == nil:
		c.cause = err
	case err != nil:
		c.cause = stderrors.Join(err, c.cause)
	}
	return c
}

func (e *Error) copy() *Error {
	c := *e.self()
	c.from, c.unsent = e, slices.Clip(c.unsent)
	return &c
}
