package rpctest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rpcweft/weft/core"
)

// Adapter is what brings interceptors to a stack, as [TestAdapter] wants it. To fill it in takes:
//
//   - a server of the stack that passes each call of the Dummy service to [Service.Serve], with the handler's side
//     of the call as a [ServiceStream], behind the adapter with Options.Server. [Procedure] names the methods;
//   - a client of the stack behind the adapter with Options.Client, wrapped as a [Driver] for [NewClient];
//   - an [Environment] that starts and ends both.
//
// The kit's cases find the rest by what they do on the wire and what interceptors see on either side.
type Adapter struct {
	// Paths are the ways from client to server that the adapter has a part in. Stacks of one's own have any
	// name; HTTP is 2 if there are bidirectional streams.
	Paths []Path
	// Start serves the Dummy service ([Service] knows how) by the adapter's own constructors, with
	// the options' Server interceptors, Client interceptors and Cases. It must let a panic of the constructors pass. No
	// other option is set. It is called for each path and shape of each case.
	Start func(t testing.TB, o *Options) Environment
	// NewError makes an error of the own type of the path's server stack, whose code may be out of range.
	// Nil skips the cases that need it, which is right for a stack without such a type.
	NewError func(path Path, code core.Code, message string, details ...core.Detail) error
	// IsNative reports whether err, as the application has it, is of the own type of the path's
	// client stack. Nil takes any error.
	IsNative func(path Path, err error) bool
}

// Environment is running servers, and clients of them. [Servers] is one.
type Environment interface {
	// Client returns a client for a path and a shape. See [NewClient].
	Client(path Path, shape core.Shape) *Client
	// Close ends both: calls under way fail, and nothing is left behind. It may be called again.
	Close()
}

// ConnectAdapter returns connectx with all paths that have connect-go at one end at least.
func ConnectAdapter() Adapter { return adapterOf(Connect) }

// GRPCAdapter returns grpcx with all paths that have grpc-go at one end at least.
func GRPCAdapter() Adapter { return adapterOf(GRPC) }

func adapterOf(stack Stack) Adapter {
	return Adapter{
		Paths: slices.DeleteFunc(Paths(), func(p Path) bool { return p.Client != stack && p.Server != stack }),
		Start: func(t testing.TB, o *Options) Environment { return NewServers(t, o) },
		NewError: func(path Path, code core.Code, message string, details ...core.Detail) error {
			if path.Server == GRPC {
				//nolint:gosec // the code is whatever the kit wants to send
				st := &spb.Status{Code: int32(code), Message: message}
				for _, d := range details {
					st.Details = append(st.Details, anyOf(d))
				}
				return status.FromProto(st).Err()
			}
			err := connect.NewError(connect.Code(code), errors.New(message))
			for _, d := range details {
				detail, _ := connect.NewErrorDetail(anyOf(d)) // an Any never fails
				err.AddDetail(detail)
			}
			return err
		},
		IsNative: func(path Path, err error) bool {
			if path.Client == GRPC {
				_, ok := err.(interface{ GRPCStatus() *status.Status })
				return ok
			}
			_, ok := err.(*connect.Error) //nolint:errorlint // the application's own
			return ok
		},
	}
}

func anyOf(d core.Detail) *anypb.Any { return &anypb.Any{TypeUrl: d.TypeURL, Value: d.Value} }

// Failure is a promise that an adapter breaks.
type Failure struct {
	// Promise and Case name the subtest of [TestAdapter].
	Promise, Case string
	Path          Path
	Shape         core.Shape
	// Where in the call it was found, on which side.
	Where string
	// Want and Got are what was expected and what came.
	Want, Got string
	// Explanation says what must hold, and why.
	Explanation string
}

// String shows all of the failure.
func (f Failure) String() string {
	return fmt.Sprintf("%s/%s: %s %s, %s:\n\twant %s\n\tgot  %s\n\t%s", f.Promise, f.Case, f.Path, f.Shape, f.Where,
		indent(f.Want), indent(f.Got), f.Explanation)
}

func indent(text string) string { return strings.ReplaceAll(text, "\n", "\n\t     ") }

// TestAdapter tests that an adapter keeps the promises of Weft, in the manner of testing/slogtest: one subtest for each
// case, on all its paths and in all shapes. What fails says why it must hold. It must not run beside parallel tests, because it counts allocations.
//
//	func TestAdapter(t *testing.T) {
//		rpctest.TestAdapter(t, rpctest.Adapter{Paths: paths, Start: start})
//	}
//
// That an adapter links nothing but its own stack is a promise too; it is not tested here.
func TestAdapter(t *testing.T, a Adapter) {
	t.Helper()
	patience := maxHung
	for _, c := range conformance() {
		t.Run(c.promise+"/"+c.name, func(t *testing.T) {
			for _, f := range a.check(t, c, &patience) {
				t.Error(f)
			}
		})
	}
}

// CheckAdapter does what [TestAdapter] does and returns the failures. t does not fail of them.
func CheckAdapter(t testing.TB, a Adapter) []Failure {
	t.Helper()
	cases, patience := conformance(), maxHung
	failures := make([][]Failure, len(cases))
	for i, c := range cases {
		failures[i] = a.check(t, c, &patience)
	}
	return slices.Concat(failures...)
}

const (
	// limit is how long the kit waits for what must happen.
	limit = 10 * time.Second
	// maxHung is how many trials may wait in vain before the kit gives up.
	maxHung = 20
)

// conformanceCase is one thing that must hold.
type conformanceCase struct {
	promise, name string
	why           string
	shapes        []core.Shape
	run           func(k *trial)
}

func (a Adapter) check(t testing.TB, c conformanceCase, patience *int) (failures []Failure) {
	for _, path := range a.Paths {
		for _, shape := range c.shapes {
			if !path.Can(shape) || *patience == 0 {
				continue
			}
			k := &trial{t: t, adapter: a, of: c, path: path, shape: shape}
			found, hung := k.try()
			if hung {
				*patience--
			}
			failures = append(failures, found...)
		}
	}
	return failures
}

// trial is a case on one path and in one shape.
type trial struct {
	t       testing.TB
	adapter Adapter
	of      conformanceCase
	path    Path
	shape   core.Shape

	rec    Recorder        // of the probes
	ctx    context.Context //nolint:containedctx // ends with the trial, so that nothing outlives it
	client *Client
	gone   context.Context //nolint:containedctx // ends when an RPC is over on the client
	leave  context.CancelFunc

	mu       sync.Mutex
	env      Environment
	failures []Failure
	hung     bool
	over     bool
}

// try runs the case with an environment of its own, in a goroutine, since what it tests may hang.
func (k *trial) try() (failures []Failure, hung bool) {
	ctx, cancel := context.WithCancel(k.t.Context())
	k.ctx = ctx
	k.gone, k.leave = context.WithCancel(ctx)
	defer k.leave()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if value := recover(); value != nil {
				k.fail("the application's call", "no panic", fmt.Sprintf("%v\n%s", value, debug.Stack()))
			}
		}()
		k.of.run(k)
	}()
	timer := time.NewTimer(2 * limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		k.hang("the application's call", "that it returns", "it hangs")
	}
	cancel()
	k.mu.Lock()
	k.over = true // a goroutine that hangs may still come back
	env := k.env
	failures, hung = k.failures, k.hung
	k.mu.Unlock()
	if env != nil {
		env.Close()
	}
	return failures, hung
}

// start serves with probes nearest to the RPC, and returns a client. The interceptors given stand outside of them.
func (k *trial) start(o Options) *Client {
	probes := []core.Interceptor{k.rec.Interceptor("outer"), k.rec.Interceptor("inner")}
	o.Server = slices.Concat(o.Server, probes)
	o.Client = append(slices.Concat(o.Client, probes), around(func(ctx context.Context, call *core.Call, next core.Handler) error {
		defer k.leave()
		return next(ctx, call)
	}))
	return k.startBare(o)
}

// startBare serves in place of what the trial has served so far.
func (k *trial) startBare(o Options) *Client {
	if k.env != nil {
		k.env.Close()
	}
	env := k.adapter.Start(k.t, &o)
	k.mu.Lock()
	over := k.over
	if !over {
		k.env = env
	}
	k.mu.Unlock()
	if over {
		env.Close()
		runtime.Goexit()
	}
	k.client = env.Client(k.path, k.shape)
	return k.client
}

func (k *trial) fail(where, want, got string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.over {
		k.failures = append(k.failures, Failure{k.of.promise, k.of.name, k.path, k.shape, where, want, got, k.of.why})
	}
}

// hang fails with what the probes saw until then.
func (k *trial) hang(where, want, got string) {
	k.mu.Lock()
	k.hung = true
	k.mu.Unlock()
	events := append(k.rec.Events(core.SideClient), k.rec.Events(core.SideServer)...)
	k.fail(where, want, got+"; the interceptors saw\n"+strings.Join(lines(events), "\n"))
}

// equal demands that want and got look the same.
func (k *trial) equal(where string, want, got any) {
	if w, g := fmt.Sprint(want), fmt.Sprint(got); w != g {
		k.fail(where, w, g)
	}
}

// settle waits until all probes have seen the end.
func (k *trial) settle() bool {
	k.mu.Lock()
	hung := k.hung
	k.mu.Unlock()
	if !hung && k.rec.Wait(limit) != nil {
		k.hang("next", "that it returns when the call is over", "some have not")
		return false
	}
	return !hung
}
