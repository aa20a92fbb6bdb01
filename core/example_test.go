package core_test

import (
	"context"
	"fmt"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/rpctest"
)

// The first interceptor of a chain is the outermost.
func ExampleNewChain() {
	say := func(name string) core.Interceptor {
		return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			fmt.Println(name, "before")
			err := next(ctx, call) // the RPC is over when it returns, also a client's stream
			fmt.Println(name, "after:", core.CodeOf(err))
			return err
		})
	}
	_ = rpctest.Call(rpctest.Fake{}).Run(context.Background(), core.NewChain(say("a"), say("b")))
	// Output:
	// a before
	// b before
	// b after: ok
	// a after: ok
}

// An interceptor for some calls only.
func ExampleWhen() {
	admins := core.InterceptorFunc(func(context.Context, *core.Call, core.Handler) error {
		return errors.PermissionDenied("admins only")
	})
	guarded := core.When(core.MatchAll(
		core.MatchService("acme.admin.v1.AdminService"),
		core.MatchSide(core.SideServer),
	), admins)
	for _, method := range []string{"/acme.admin.v1.AdminService/Delete", "/acme.shop.v1.ShopService/Buy"} {
		err := rpctest.Call(rpctest.Fake{Method: method}).Run(context.Background(), guarded)
		fmt.Println(method, core.CodeOf(err))
	}
	// Output:
	// /acme.admin.v1.AdminService/Delete permission_denied
	// /acme.shop.v1.ShopService/Buy ok
}

// Messages meet the hooks one by one, in any shape.
func ExampleCall_OnRequest() {
	count := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		n := 0
		call.OnRequest(func(context.Context, any) error {
			if n++; n > 2 {
				return errors.ResourceExhausted("two messages are enough")
			}
			return nil
		})
		err := next(ctx, call)
		fmt.Println(n, "messages:", err)
		return err
	})
	call := rpctest.Call(rpctest.Fake{Shape: core.ShapeClientStream, Requests: []any{"a", "b", "c"}})
	_ = call.Run(context.Background(), count)
	// Output: 3 messages: resource_exhausted: two messages are enough
}

// Each try of an interceptor that retries is an attempt of its own.
func ExampleCall_NewAttempt() {
	retry := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		for {
			attempt := call.NewAttempt()
			err := next(ctx, attempt)
			if core.CodeOf(err) != core.CodeUnavailable || attempt.Committed() || attempt.Attempt() == 3 {
				call.Adopt(attempt) // this one counts, also if it failed
				return err
			}
		}
	})
	call := rpctest.Call(rpctest.Fake{
		Side: core.SideClient,
		Invoke: func(_ context.Context, attempt *core.Call) error {
			fmt.Println("attempt", attempt.Attempt())
			if attempt.Attempt() < 2 {
				return errors.Unavailable("try again")
			}
			return nil
		},
	})
	fmt.Println(call.Run(context.Background(), retry))
	// Output:
	// attempt 1
	// attempt 2
	// <nil>
}

func ExampleParseMethod() {
	m, err := core.ParseMethod("/foo.bar.SearchService/Search")
	fmt.Println(m.Package(), m.Service(), m.Name(), m.FullService(), err)
	_, err = core.ParseMethod("Search")
	fmt.Println(err)
	// Output:
	// foo.bar SearchService Search foo.bar.SearchService <nil>
	// core: malformed method name "Search": it has no service; want /package.Service/Method
}

func ExampleNewMetadata() {
	md, err := core.NewMetadata("X-Trace", "7", "x-key-bin", "\x00\x01")
	fmt.Printf("%q %q %v\n", md.Get("x-trace"), md.Get("X-Key-Bin"), err)
	fmt.Println(md.Set("grpc-status", "0"))
	// Output:
	// "7" "\x00\x01" <nil>
	// invalid_argument: metadata key "grpc-status" belongs to the protocol
}
