package grpcx

import (
	"context"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/rpcweft/weft/core"
)

// refused is a stream as grpc leaves it that was refused again while it sent once more what was sent.
type refused struct {
	grpc.ClientStream

	ends []error
}

func (r *refused) RecvMsg(any) error {
	err := r.ends[0]
	r.ends = r.ends[1:]
	return err
}

// internal/parity has grpc do it, which depends on who is quicker.
func TestAStreamRefusedWhileItIsSentAgainIsNoSuccess(t *testing.T) {
	unavailable := status.Error(codes.Unavailable, "refused")
	for _, shape := range []core.Shape{core.ShapeClientStream, core.ShapeServerStream, core.ShapeBidiStream} {
		for name, test := range map[string]struct {
			ends []error
			want []error
		}{
			"refused":              {[]error{io.EOF, unavailable}, []error{unavailable}},
			"a success":            {[]error{io.EOF, io.EOF}, []error{io.EOF}},
			"one that has a value": {[]error{nil, io.EOF}, []error{nil, io.EOF}},
		} {
			s := &streamClient{stream: &appStream{}}
			s.Init(s, core.Method{}, core.SideClient, shape, core.ProtocolGRPC, nil)
			n := &nativeStream{streamClient: s, ClientStream: &refused{ends: test.ends}}
			for i, want := range test.want {
				if err := n.Receive(&emptypb.Empty{}); err != want { //nolint:errorlint // the very one
					t.Errorf("%s, %s: receive %d returned %v, want %v", shape, name, i+1, err, want)
				}
			}
		}
	}
}

func TestAUnaryCallRefusedWhileItIsSentAgainIsUnavailable(t *testing.T) {
	cc, err := grpc.NewClient("passthrough:///nowhere", append(DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor(func(context.Context, string, any, any, *grpc.ClientConn, grpc.UnaryInvoker, ...grpc.CallOption) error {
			return io.EOF
		}))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	if err := cc.Invoke(t.Context(), "/a.B/C", &emptypb.Empty{}, &emptypb.Empty{}); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
}
