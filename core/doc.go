// Package core is the protocol-neutral heart of Weft: interceptors, chains and
// calls. It imports the standard library alone.
//
// An [Interceptor] is written once and runs on every stack that has an adapter
// (connect-go and grpc-go), on servers and on clients, for all four shapes of
// RPC. The one idea:
//
//	next returns when the RPC is over. Always.
//
// That holds on servers and clients, for unary calls and for streams, so the
// plainest Go is right everywhere:
//
//	func (t Timing) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
//		start := time.Now()
//		err := next(ctx, call) // the whole RPC
//		t.record(call.Method(), time.Since(start), core.CodeOf(err))
//		return err // what the peer or the application sees
//	}
//
// A client stream outlives the call that opens it. Therefore its chain runs in
// a goroutine of its own: the innermost next opens the stream, hands it to the
// application and comes back with the stream's outcome ([ClientStream]).
//
// # Reading order
//
// call.go says what an interceptor may ask of a call, chain.go how interceptors
// are composed, adapter.go what a stack must supply. Everything else serves these
// three.
//
// # Errors
//
// Each error that next returns answers [CodeOf] with the code that the wire
// carries. Package errors, one floor up, has constructors for coded errors.
package core
