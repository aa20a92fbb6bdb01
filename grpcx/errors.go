package grpcx

import (
	"context"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// Errors returns an interceptor that understands grpc's status errors on other
// stacks: put it last in the chain of a connect-go handler that, migrated from grpc-go, still
// returns such errors, and they keep code, message and details.
//
//	connectx.New(logging, auth, grpcx.Errors())
//
// Behind grpcx itself it is not needed.
func Errors() core.Interceptor {
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		return normalize(next(ctx, call))
	})
}

// grpcError is what grpc takes for an error with a status.
type grpcError interface {
	error
	GRPCStatus() *status.Status
}

// normalize makes an error whose first coded error is grpc's answer core.CodeOf.
func normalize(err error) error { return errors.Normalize(err, convert) }

// convert makes a Weft error of one of grpc's own, not of one that a client of ours made: that one unwraps
// to Weft's. grpc does not tell whether a server has sent it.
func convert(err, whole error) *errors.Error { return convertWith(err, whole, nil) }

// convertWith adds metadata, which grpc's own errors have not.
func convertWith(err, whole error, metadata func() *core.Metadata) *errors.Error {
	native, ok := err.(grpcError)                //nolint:errorlint // Normalize walks the tree
	if _, ours := err.(*appError); !ok || ours { //nolint:errorlint // as above
		return nil
	}
	st := native.GRPCStatus()
	if st == nil {
		return nil
	}
	var md *core.Metadata
	if metadata != nil {
		md = metadata()
	}
	return errors.FromNative(errors.Native{
		Metadata: md,
		Original: native,
		Whole:    whole,
		Code:     core.Code(st.Code()),
		Message:  st.Message(),
		Details:  func() []*anypb.Any { return st.Proto().GetDetails() },
	})
}

// serverEdge makes what grpc sends of an error; its metadata goes to trailer.
func serverEdge(err error, trailer *core.Metadata) error {
	st := errors.Wire(normalize(err), nil)
	if native, ok := st.Native.(grpcError); ok { //nolint:errorlint // it is the error itself
		return native
	}
	st.Metadata.EachRaw(false, func(key, value string) { _ = trailer.Add(key, value) })
	return statusOf(st).Err()
}

func statusOf(st errors.Status) *status.Status {
	return status.FromProto(&spb.Status{
		Code:    int32(st.Code), //nolint:gosec // 1 to 16
		Message: st.Message,
		Details: st.Details,
	})
}

// appError is the error that an application gets: a status error of grpc that
// unwraps to Weft's.
type appError struct {
	status *status.Status
	weft   *errors.Error
}

// Error returns the text that grpc's own errors have.
func (e *appError) Error() string { return e.status.Err().Error() }

// GRPCStatus is how grpc's status package finds the status.
func (e *appError) GRPCStatus() *status.Status { return e.status }

// Is makes it equal to a status error of grpc with the same status.
func (e *appError) Is(target error) bool { return errors.Is(e.status.Err(), target) }

func (e *appError) Unwrap() error { return e.weft }

// clientEdge makes the error that the application gets of what the chain of call returned.
func clientEdge(err error, call *core.Call) error {
	st := errors.Wire(normalize(err), nil)
	if st.Coded == nil {
		st.Message = err.Error() // it stays in this process
	}
	return &appError{statusOf(st), errors.FromNative(errors.Native{
		Whole: err, Code: st.Code, Message: st.Message,
		Details:  func() []*anypb.Any { return st.Details },
		Metadata: call.ResponseMetadata(), Upstream: true,
	})}
}

// malformed is the error for a method name that no call can have.
func malformed(err error) error { return status.Error(codes.Internal, err.Error()) }
