package rpctest_test

import (
	"context"
	"fmt"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/rpctest"
)

// auth lets pass who knows the token.
var auth = core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
	if call.RequestHeader().Get("authorization") != "secret" {
		return errors.Unauthenticated("who are you?")
	}
	return next(ctx, call)
})

// An interceptor is run against a call that is none, without a stack.
func ExampleCall() {
	for _, token := range []string{"secret", "wrong"} {
		call := rpctest.Call(rpctest.Fake{RequestHeader: map[string][]string{"authorization": {token}}})
		err := call.Run(context.Background(), auth)
		fmt.Println(token, core.CodeOf(err), "reached the handler:", call.Started())
	}
	// Output:
	// secret ok reached the handler: 1
	// wrong unauthenticated reached the handler: 0
}

// A recorder before an interceptor and one behind it show what it does.
func ExampleRecorder() {
	shout := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		call.OnRequest(func(_ context.Context, msg any) error {
			msg.(*rpctest.Request).Input += "!"
			return nil
		})
		return next(ctx, call)
	})
	var rec rpctest.Recorder
	call := rpctest.Call(rpctest.Fake{Shape: core.ShapeClientStream, Requests: []any{&rpctest.Request{Input: "hi"}}})
	_ = call.Run(context.Background(), rec.Interceptor("before"), shout, rec.Interceptor("behind"))

	for _, e := range rec.Events(core.SideServer) {
		fmt.Println(e)
	}
	// Output:
	// server before: enter client_stream /weft.dummy.v1.DummyService/ExecuteClientStream
	// server behind: enter client_stream /weft.dummy.v1.DummyService/ExecuteClientStream
	// server before: request "hi"
	// server behind: request "hi!"
	// server behind: end ok
	// server before: end ok
}

// What came is shown beside what was expected.
func ExampleDiff() {
	want := []rpctest.Event{
		{Name: "log", Side: core.SideServer, What: "enter", Text: "unary /weft.dummy.v1.DummyService/Execute"},
		{Name: "log", Side: core.SideServer, What: "end", Text: "ok"},
	}
	var rec rpctest.Recorder
	_ = rpctest.Call(rpctest.Fake{}).Run(context.Background(), rec.Interceptor("log"), auth)

	fmt.Print(rpctest.Diff(want, rec.Events(core.SideServer)))
	// Output:
	//   server log: enter unary /weft.dummy.v1.DummyService/Execute
	// - server log: end ok
	// + server log: end unauthenticated
}
