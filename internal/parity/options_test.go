package parity

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
)

// What an application asks grpc for by options, it gets once for a call, however many attempts that has.
func TestTheOptionsOfAnApplicationAreThoseOfTheCall(t *testing.T) {
	for _, failures := range []int{0, 1, 2} {
		attempts, ends := 0, []codes.Code{}
		invoker := func(_ context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption) (err error) {
			if attempts++; attempts <= failures {
				err = status.Error(codes.Unavailable, "down")
			}
			for _, opt := range opts { // as grpc does
				switch opt := opt.(type) {
				case grpc.HeaderCallOption:
					*opt.HeaderAddr = metadata.Pairs("x-number", fmt.Sprint(attempts))
				case grpc.OnFinishCallOption:
					opt.OnFinish(err)
				}
			}
			return err
		}
		var header metadata.MD
		err := grpcx.UnaryClientInterceptor(retryOnce)(t.Context(), dummyv1.DummyService_Execute_FullMethodName, &dummyv1.DummyRequest{}, &dummyv1.DummyResponse{}, nil,
			invoker, grpc.Header(&header), grpc.OnFinish(func(err error) { ends = append(ends, status.Code(err)) }))
		if len(ends) != 1 || ends[0] != status.Code(err) || header.Get("x-number")[0] != fmt.Sprint(attempts) {
			t.Errorf("%d failures: %d attempts and %v, the application saw ends with %v and header %v", failures, attempts, err, ends, header)
		}
	}
}
