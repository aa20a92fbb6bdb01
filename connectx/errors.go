package connectx

import (
	"context"
	"io"
	"maps"
	"net/http"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// Errors returns an interceptor that understands [*connect.Error] on other
// stacks: put it last in the chain of a grpc-go server whose handlers, migrated from
// connect-go, still return such errors, and they keep code, message and details.
//
//	grpcx.ServerOptions(logging, auth, connectx.Errors())
//
// Behind connectx itself it is not needed.
func Errors() core.Interceptor {
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		return normalize(next(ctx, call))
	})
}

// normalize makes an error whose first coded error is connect's answer core.CodeOf.
func normalize(err error) error { return errors.Normalize(err, convert) }

// convert makes a Weft error of one of connect's own, not of one that a client of ours made: that one
// unwraps to Weft's.
func convert(err, whole error) *errors.Error {
	native, ok := err.(*connect.Error) //nolint:errorlint // Normalize walks the tree
	if !ok || native == nil {
		return nil
	}
	if _, ours := native.Unwrap().(*appError); ours { //nolint:errorlint // directly inside
		return nil
	}
	return errors.FromNative(errors.Native{
		Original: native,
		Whole:    whole,
		Code:     core.Code(native.Code()),
		Message:  native.Message(),
		Details:  func() []*anypb.Any { return detailsOf(native) },
		Metadata: core.WrapMetadata(raw(native.Meta())),
		Upstream: connect.IsWireError(native),
	})
}

// detailsOf returns connect's details. connect keeps the prefix of their type URLs to itself.
func detailsOf(native *connect.Error) []*anypb.Any {
	details := make([]*anypb.Any, len(native.Details()))
	for i, detail := range native.Details() {
		details[i] = &anypb.Any{TypeUrl: "type.googleapis.com/" + detail.Type(), Value: detail.Bytes()}
	}
	return details
}

// serverEdge makes what connect sends of an error; its metadata goes to trailer.
func serverEdge(err error, trailer func() http.Header) error {
	status := errors.Wire(normalize(err), nil)
	if native, ok := status.Native.(*connect.Error); ok { //nolint:errorlint // it is the error itself
		return native // the same value: that is how connect knows its 304
	}
	if status.Metadata != nil && status.Metadata.Len() > 0 {
		status.Metadata.EachRaw(true, trailer().Add)
	}
	return newNative(connect.NewError, status, text(status.Message))
}

// text is a message as an error.
type text string

func (t text) Error() string { return string(t) }

// appError is inside of the error that an application gets: connect reads its
// text, the application unwraps it.
type appError struct {
	message string
	weft    *errors.Error
}

func (e *appError) Error() string { return e.message }
func (e *appError) Unwrap() error { return e.weft }

// clientEdge makes the error that the application gets of what the chain of call
// returned. It carries all response metadata, as connect's own errors do.
func clientEdge(err error, call *core.Call) error {
	err = normalize(err)
	status := errors.Wire(err, nil)
	if status.Coded == nil {
		status.Message = err.Error() // it stays in this process
	}
	construct := connect.NewError
	meta := http.Header{}
	if native := originalOf(status.Coded); native != nil {
		if connect.IsWireError(native) {
			construct = connect.NewWireError
		}
		meta = native.Meta()
	} else {
		call.ResponseMetadata().EachRaw(true, meta.Add)
		if with, ok := status.Coded.(core.MetadataError); ok {
			for key := range with.Metadata().All() {
				meta.Del(key)
			}
			with.Metadata().EachRaw(true, meta.Add)
		}
	}
	inner := &appError{message: status.Message, weft: errors.FromNative(errors.Native{
		Whole: err, Code: status.Code, Message: status.Message,
		Details:  func() []*anypb.Any { return status.Details },
		Metadata: core.WrapMetadata(raw(meta)), Upstream: true,
	})}
	app := newNative(construct, status, inner)
	maps.Copy(app.Meta(), meta)
	return app
}

// originalOf returns connect's error of which coded was made, or nil.
func originalOf(coded core.CodedError) *connect.Error {
	if weft, ok := coded.(*errors.Error); ok {
		if native, ok := weft.Original().(*connect.Error); ok { //nolint:errorlint // its own field
			return native
		}
	}
	return nil
}

func newNative(construct func(connect.Code, error) *connect.Error, status errors.Status, underlying error) *connect.Error {
	native := construct(connect.Code(status.Code), underlying)
	for _, detail := range status.Details {
		if d, err := connect.NewErrorDetail(detail); err == nil { // an Any never fails
			native.AddDetail(d)
		}
	}
	return native
}

// isEOF reports connect's end of a stream: an error that wraps io.EOF.
func isEOF(err error) bool { return errors.Is(err, io.EOF) }

// eof is io.EOF in connect's dress.
func eof() error { return connect.NewError(connect.CodeUnknown, io.EOF) }
