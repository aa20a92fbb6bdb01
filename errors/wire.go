package errors

import (
	"strings"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rpcweft/weft/core"
)

// Status is what the peer gets to know of an error. See [Wire].
type Status struct {
	// Code is one of the sixteen, or OK for no error.
	Code core.Code
	// Message is valid UTF-8.
	Message string
	// Details are nil if there are none. Their type URLs are valid UTF-8.
	Details []*anypb.Any
	// Metadata belongs in the trailer. It is nil if there is none, and for upstream errors.
	Metadata *core.Metadata
	// Native is the stack's own error, any stack's, if the peer may get it as it is. It is
	// nil if there is none or if it would say more than this status or something else: the error is
	// upstream, or its code or its message is not valid.
	Native error
	// Coded is the error that the status comes from, nil if there is none.
	Coded core.CodedError
}

// Wire returns what the peer gets to know of err, for the server edges of
// adapters. It is the one place that decides this:
//
//   - Of the first coded error in the order of [As] its code, its own message, its details, and
//     its metadata unless it is upstream. A code that is OK or out of range becomes Internal.
//   - Of an error without a coded one the code that [CodeOf] gives, and a fixed text.
//
// The text of what wraps an error, and its cause, stay here. native is asked about
// each error in the tree as in [core.FindCoded]; it may be nil. A nil err gives the zero Status.
func Wire(err error, native func(error) core.CodedError) Status {
	if err == nil {
		return Status{}
	}
	coded := core.FindCoded(err, native)
	if coded == nil {
		code := core.CodeOf(err)
		return Status{Code: code, Message: core.PublicMessage(code)}
	}
	s := Status{Code: core.WireCode(coded), Message: valid(coded.Message()), Details: detailsOf(coded), Coded: coded}
	if isUpstream(coded) {
		return s
	}
	if m, ok := coded.(core.MetadataError); ok {
		s.Metadata = m.Metadata()
	}
	if e, ok := coded.(*Error); ok && s.Code == e.Code() && s.Message == e.Message() {
		s.Native = e.Original()
	}
	return s
}

func isUpstream(err core.CodedError) bool {
	u, ok := err.(core.UpstreamError)
	return ok && u.Upstream()
}

// valid replaces what is not UTF-8, which protobuf strings must be.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
