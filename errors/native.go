package errors

import (
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rpcweft/weft/core"
)

// Native is what an adapter knows about an error of its stack's own type, for [FromNative].
type Native struct {
	// Original is the stack's own error, nil if there is none.
	Original error
	// Whole is the error in whose tree Original was found, or of which this one is made. Nil means Original.
	Whole error
	// Code may be OK or out of range: the wire says Internal then.
	Code core.Code
	// Message is what the peer may read, or what the peer has sent.
	Message string
	// Details makes the details. It is called each time that somebody asks for them, perhaps by
	// several goroutines at once, and may be nil.
	Details func() []*anypb.Any
	// Metadata is the error's own, or on clients that of the response. It may be nil.
	Metadata *core.Metadata
	// Upstream says that the error was received from a further server.
	Upstream bool
}

// FromNative returns the error of this package for one of a stack, for adapters.
// Its text is that of Whole, and so is what it unwraps to. It panics if both are nil.
func FromNative(n Native) *Error {
	if n.Whole == nil {
		n.Whole = n.Original
	}
	if n.Whole == nil {
		panic("errors: FromNative of no error")
	}
	return &Error{
		code: n.Code, message: n.Message, metadata: n.Metadata, upstream: n.Upstream,
		whole: n.Whole, original: n.Original, native: n.Details,
	}
}

// Normalize returns err, or what convert makes of it if the first coded error in its tree is of a stack's
// own type, for adapters. convert gets each error in the tree, in the order of [As], until one is coded, and err
// itself; it returns nil for those that are not of its stack.
func Normalize(err error, convert func(native, whole error) *Error) error {
	var converted *Error
	_ = core.FindCoded(err, func(e error) core.CodedError {
		if converted = convert(e, err); converted == nil {
			return nil
		}
		return converted
	})
	if converted != nil {
		return converted
	}
	return err
}
