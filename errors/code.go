package errors

import (
	"fmt"

	"github.com/rpcweft/weft/core"
)

// Code is a status code of gRPC and Connect.
type Code = core.Code

// The codes, as in package core.
const (
	CodeOK                 = core.CodeOK
	CodeCanceled           = core.CodeCanceled
	CodeUnknown            = core.CodeUnknown
	CodeInvalidArgument    = core.CodeInvalidArgument
	CodeDeadlineExceeded   = core.CodeDeadlineExceeded
	CodeNotFound           = core.CodeNotFound
	CodeAlreadyExists      = core.CodeAlreadyExists
	CodePermissionDenied   = core.CodePermissionDenied
	CodeResourceExhausted  = core.CodeResourceExhausted
	CodeFailedPrecondition = core.CodeFailedPrecondition
	CodeAborted            = core.CodeAborted
	CodeOutOfRange         = core.CodeOutOfRange
	CodeUnimplemented      = core.CodeUnimplemented
	CodeInternal           = core.CodeInternal
	CodeUnavailable        = core.CodeUnavailable
	CodeDataLoss           = core.CodeDataLoss
	CodeUnauthenticated    = core.CodeUnauthenticated
)

// CodeOf returns the code that the wire carries for err, OK for nil. See [core.CodeOf].
func CodeOf(err error) Code { return core.CodeOf(err) }

// Newf returns an error with the given code. The message is made as by
// [fmt.Sprintf], always, and go vet checks it as such: a text from elsewhere goes in by "%s". The peer may read
// all of it, so that an error does not belong among the args: [Error.WithCause] takes it. Newf panics if
// the code is OK or out of range.
func Newf(code Code, format string, args ...any) *Error {
	if !code.IsError() {
		panic(fmt.Sprintf("errors: Newf with code %s: an error has one of the codes canceled (1) to unauthenticated (16)", code))
	}
	return &Error{code: code, message: fmt.Sprintf(format, args...)}
}

// Canceled says: the caller gave the call up. See [Newf] for the message.
func Canceled(format string, args ...any) *Error { return Newf(CodeCanceled, format, args...) }

// Unknown says: an error that fits no other code. See [Newf] for the message.
func Unknown(format string, args ...any) *Error { return Newf(CodeUnknown, format, args...) }

// InvalidArgument says: the request is wrong, whatever the state of the system. See [Newf] for the message.
func InvalidArgument(format string, args ...any) *Error {
	return Newf(CodeInvalidArgument, format, args...)
}

// DeadlineExceeded says: the time ran out before the end. See [Newf] for the message.
func DeadlineExceeded(format string, args ...any) *Error {
	return Newf(CodeDeadlineExceeded, format, args...)
}

// NotFound says: what was asked for does not exist. See [Newf] for the message.
func NotFound(format string, args ...any) *Error { return Newf(CodeNotFound, format, args...) }

// AlreadyExists says: what was to be created exists. See [Newf] for the message.
func AlreadyExists(format string, args ...any) *Error {
	return Newf(CodeAlreadyExists, format, args...)
}

// PermissionDenied says: the caller is known and may not do this. See [Newf] for the message.
func PermissionDenied(format string, args ...any) *Error {
	return Newf(CodePermissionDenied, format, args...)
}

// ResourceExhausted says: a quota or another resource is used up. See [Newf] for the message.
func ResourceExhausted(format string, args ...any) *Error {
	return Newf(CodeResourceExhausted, format, args...)
}

// FailedPrecondition says: the system is not in the state that this needs; trying again does not help. See [Newf] for the message.
func FailedPrecondition(format string, args ...any) *Error {
	return Newf(CodeFailedPrecondition, format, args...)
}

// Aborted says: a conflict, as of two transactions; the caller may start over. See [Newf] for the message.
func Aborted(format string, args ...any) *Error { return Newf(CodeAborted, format, args...) }

// OutOfRange says: past the end of what there is; it may be right later. See [Newf] for the message.
func OutOfRange(format string, args ...any) *Error { return Newf(CodeOutOfRange, format, args...) }

// Unimplemented says: this operation does not exist here. See [Newf] for the message.
func Unimplemented(format string, args ...any) *Error {
	return Newf(CodeUnimplemented, format, args...)
}

// Internal says: something that must hold does not. See [Newf] for the message.
func Internal(format string, args ...any) *Error { return Newf(CodeInternal, format, args...) }

// Unavailable says: not now; the caller may try again. See [Newf] for the message.
func Unavailable(format string, args ...any) *Error { return Newf(CodeUnavailable, format, args...) }

// DataLoss says: data is lost or corrupted for good. See [Newf] for the message.
func DataLoss(format string, args ...any) *Error { return Newf(CodeDataLoss, format, args...) }

// Unauthenticated says: the caller has not shown who it is. See [Newf] for the message.
func Unauthenticated(format string, args ...any) *Error {
	return Newf(CodeUnauthenticated, format, args...)
}
