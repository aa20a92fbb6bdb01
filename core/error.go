package core

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// CodedError is an error that knows what the wire shall say of it. The errors of
// package errors are coded, and so are the errors of a stack once an adapter has
// seen them. An implementation may also be a [DetailedError], a [MetadataError]
// and an [UpstreamError].
type CodedError interface {
	error
	// Code is one of the sixteen codes. OK and codes out of range reach the wire as Internal.
	Code() Code
	// Message is what the peer may read, unlike Error, which is for logs.
	Message() string
}

// DetailedError is a [CodedError] with details for the peer, in order.
type DetailedError interface{ Details() []Detail }

// MetadataError is a [CodedError] with metadata for the peer, sent in the
// trailer. On a client it is the merged response metadata. Metadata may return nil.
type MetadataError interface{ Metadata() *Metadata }

// UpstreamError is a [CodedError] that tells whether it was received from a
// further server. Its metadata is never sent on.
type UpstreamError interface{ Upstream() bool }

// Detail is one detail of an error: a serialized protobuf message and its type,
// as in google.protobuf.Any.
type Detail struct {
	TypeURL string
	Value   []byte
}

// CodeOf returns the code that the wire carries for err: OK for nil, the code of
// the first [CodedError] in the order of [errors.As] (Internal if that is not one of the
// sixteen), Canceled and DeadlineExceeded for context errors and
// [os.ErrDeadlineExceeded], Unknown for anything else. Errors of a stack's own
// type answer once they have passed a chain.
func CodeOf(err error) Code {
	if err == nil {
		return CodeOK
	}
	if coded := FindCoded(err, nil); coded != nil {
		return WireCode(coded)
	}
	return contextCode(err)
}

// WireCode returns the code of err as the wire carries it: Internal when it is
// OK or out of range.
func WireCode(err CodedError) Code {
	if code := err.Code(); code.IsError() {
		return code
	}
	return CodeInternal
}

// contextCode is the code of an error without a coded one in it.
func contextCode(err error) Code {
	switch {
	case errors.Is(err, context.Canceled):
		return CodeCanceled
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return CodeDeadlineExceeded
	}
	return CodeUnknown
}

// PublicMessage is what the peer reads of an error that is not coded: a fixed
// text for each code that such an error can have. Nothing of the error's own text.
func PublicMessage(code Code) string {
	switch code {
	case CodeCanceled:
		return "the call was canceled"
	case CodeDeadlineExceeded:
		return "the deadline of the call has passed"
	case CodeInternal:
		return "internal error"
	}
	return "unknown error"
}

// FindCoded returns the first coded error in err's tree, in the order of
// [errors.As], or nil. For adapters: convert, unless nil, is asked first about each
// error in the tree and may return a coded error in place of a stack's own.
func FindCoded(err error, convert func(error) CodedError) CodedError {
	for err != nil {
		if convert != nil {
			if coded := convert(err); coded != nil {
				return coded
			}
		}
		//nolint:errorlint // this is the walk that errors.As does, with a second kind of error
		if coded, ok := err.(CodedError); ok {
			return coded
		}
		if as, ok := err.(interface{ As(target any) bool }); ok {
			if coded := CodedError(nil); as.As(&coded) && coded != nil {
				return coded
			}
		}
		//nolint:errorlint // as above
		switch node := err.(type) {
		case interface{ Unwrap() error }:
			err = node.Unwrap()
		case interface{ Unwrap() []error }:
			for _, branch := range node.Unwrap() {
				if coded := FindCoded(branch, convert); coded != nil {
					return coded
				}
			}
			return nil
		default:
			return nil
		}
	}
	return nil
}

// fault is the coded error of this package itself.
type fault struct {
	code    Code
	message string
}

func faultf(code Code, format string, args ...any) error {
	return &fault{code, fmt.Sprintf(format, args...)}
}

func (f *fault) Error() string   { return f.code.String() + ": " + f.message }
func (f *fault) Code() Code      { return f.code }
func (f *fault) Message() string { return f.message }
