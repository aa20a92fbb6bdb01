package parity

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	neturl "net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip" // grpc-go has it when somebody asks
	"google.golang.org/grpc/stats"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/rpctest"
)

// note and answer are messages that are not protobuf's; noteCodec is the codec of both stacks for them.
type (
	note      struct{ Text string }
	answer    struct{ Text string }
	noteCodec struct{}
)

func (noteCodec) Name() string                       { return "note" }
func (noteCodec) Marshal(msg any) ([]byte, error)    { return json.Marshal(msg) }
func (noteCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

func noteMethod(shape core.Shape) string { return "/weft.test.v1.Notes/" + shape.String() }

// notes is a service of notes on both stacks: it echoes, joins or doubles.
type notes struct {
	url, addr string
	client    []core.Interceptor
	failures  atomic.Int32 // so many "flaky" fail first
}

func (n *notes) serve(shape core.Shape, receive func() (*note, error), send func(*answer) error) error {
	joined := ""
	for {
		in, err := receive()
		if errors.Is(err, io.EOF) {
			break
		}
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(in.Text, "flaky") && n.failures.Add(-1) >= 0:
			return errors.Unavailable("try again")
		case strings.HasPrefix(in.Text, "fail"):
			return errors.NotFound("no such note")
		}
		joined += in.Text
		if shape == core.ShapeClientStream {
			continue
		}
		if err := send(&answer{in.Text}); err != nil {
			return err
		}
		if shape == core.ShapeServerStream {
			return send(&answer{in.Text})
		}
		if shape == core.ShapeUnary {
			return nil
		}
	}
	if shape == core.ShapeClientStream {
		return send(&answer{joined})
	}
	return nil
}

func serveNotes(t *testing.T, server, client []core.Interceptor) *notes {
	t.Helper()
	n := &notes{client: client}
	with := []connect.HandlerOption{connect.WithCodec(noteCodec{}), connect.WithInterceptors(connectx.New(server...))}
	mux := http.NewServeMux()
	single := func(shape core.Shape, receive func() (*note, error)) (res *connect.Response[answer], err error) {
		err = n.serve(shape, receive, func(msg *answer) error {
			res = connect.NewResponse(msg)
			return nil
		})
		return res, err
	}
	mux.Handle(noteMethod(core.ShapeUnary), connect.NewUnaryHandler(noteMethod(core.ShapeUnary),
		func(_ context.Context, req *connect.Request[note]) (*connect.Response[answer], error) {
			return single(core.ShapeUnary, func() (*note, error) { return req.Msg, nil })
		}, with...))
	mux.Handle(noteMethod(core.ShapeClientStream), connect.NewClientStreamHandler(noteMethod(core.ShapeClientStream),
		func(_ context.Context, stream *connect.ClientStream[note]) (*connect.Response[answer], error) {
			return single(core.ShapeClientStream, func() (*note, error) {
				if stream.Receive() {
					return stream.Msg(), nil
				}
				if err := stream.Err(); err != nil {
					return nil, err
				}
				return nil, io.EOF
			})
		}, with...))
	mux.Handle(noteMethod(core.ShapeServerStream), connect.NewServerStreamHandler(noteMethod(core.ShapeServerStream),
		func(_ context.Context, req *connect.Request[note], stream *connect.ServerStream[answer]) error {
			return n.serve(core.ShapeServerStream, func() (*note, error) { return req.Msg, nil }, stream.Send)
		}, with...))
	mux.Handle(noteMethod(core.ShapeBidiStream), connect.NewBidiStreamHandler(noteMethod(core.ShapeBidiStream),
		func(_ context.Context, stream *connect.BidiStream[note, answer]) error {
			return n.serve(core.ShapeBidiStream, stream.Receive, stream.Send)
		}, with...))
	n.url = serveHTTP(t, mux)

	desc := &grpc.ServiceDesc{ServiceName: "weft.test.v1.Notes", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
		MethodName: core.ShapeUnary.String(),
		Handler: func(_ any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			req := &note{}
			if err := decode(req); err != nil {
				return nil, err
			}
			return interceptor(ctx, req, &grpc.UnaryServerInfo{FullMethod: noteMethod(core.ShapeUnary)}, func(_ context.Context, req any) (res any, err error) {
				err = n.serve(core.ShapeUnary, func() (*note, error) { return req.(*note), nil }, func(msg *answer) error {
					res = msg
					return nil
				})
				return res, err
			})
		},
	}}}
	for _, shape := range streams {
		desc.Streams = append(desc.Streams, grpc.StreamDesc{
			StreamName: shape.String(), ClientStreams: shape.ClientStreams(), ServerStreams: shape.ServerStreams(),
			Handler: func(_ any, stream grpc.ServerStream) error {
				return n.serve(shape, func() (*note, error) {
					msg := &note{}
					return msg, stream.RecvMsg(msg)
				}, func(msg *answer) error { return stream.SendMsg(msg) })
			},
		})
	}
	native := grpc.NewServer(append(grpcx.ServerOptions(server...), grpc.ForceServerCodec(noteCodec{}))...)
	native.RegisterService(desc, nil)
	n.addr = serveGRPC(t, native)
	return n
}

// serveHTTP serves until the test ends, over HTTP/1.1 and HTTP/2 without TLS.
func serveHTTP(t *testing.T, handler http.Handler) (url string) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

func serveGRPC(t *testing.T, server *grpc.Server) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	return listener.Addr().String()
}

// httpOf returns a client for one version of HTTP.
func httpOf(t *testing.T, version int) *http.Client {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(version == 1)
	transport.Protocols.SetUnencryptedHTTP2(version == 2)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func connOf(t *testing.T, addr string, interceptors []core.Interceptor, more ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, append(append(grpcx.DialOptions(interceptors...), grpc.WithTransportCredentials(insecure.NewCredentials())), more...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func protocolOption(protocol core.Protocol) connect.ClientOption {
	switch protocol {
	case core.ProtocolGRPC:
		return connect.WithGRPC()
	case core.ProtocolGRPCWeb:
		return connect.WithGRPCWeb()
	case core.ProtocolConnect:
	}
	return connect.WithClientOptions()
}

// noteStream is a call of the service of notes in the hands of a test.
type noteStream struct {
	send      func(*note) error
	closeSend func() error
	receive   func(*answer) error // ends with io.EOF
}

// open begins a call. A unary one is sent by closeSend.
func (n *notes) open(ctx context.Context, t *testing.T, path rpctest.Path, shape core.Shape) *noteStream {
	t.Helper()
	if path.Client == rpctest.Connect {
		url := n.url
		if path.Server == rpctest.GRPC {
			url = "http://" + n.addr
		}
		client := connect.NewClient[note, answer](httpOf(t, path.HTTP), url+noteMethod(shape), connect.WithCodec(noteCodec{}),
			connect.WithInterceptors(connectx.New(n.client...)), protocolOption(path.Protocol))
		return openConnectNotes(ctx, client, shape)
	}
	addr := n.addr
	if path.Server == rpctest.Connect {
		addr = strings.TrimPrefix(n.url, "http://")
	}
	conn := connOf(t, addr, n.client, grpc.WithDefaultCallOptions(grpc.ForceCodec(noteCodec{})))
	if shape == core.ShapeUnary {
		return unaryNotes(func(msg *note) (*answer, error) {
			res := &answer{}
			return res, conn.Invoke(ctx, noteMethod(shape), msg, res)
		})
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: shape.ClientStreams(), ServerStreams: shape.ServerStreams()}, noteMethod(shape))
	if err != nil {
		return failedNotes(err)
	}
	done := false
	return &noteStream{
		send:      func(msg *note) error { return stream.SendMsg(msg) },
		closeSend: stream.CloseSend,
		receive: func(msg *answer) error {
			if done && !shape.ServerStreams() {
				return io.EOF // as in generated code, nobody asks grpc again
			}
			done = true
			return stream.RecvMsg(msg)
		},
	}
}

func failedNotes(err error) *noteStream {
	return &noteStream{
		send:      func(*note) error { return io.EOF },
		closeSend: func() error { return nil },
		receive:   func(*answer) error { return err },
	}
}

func unaryNotes(call func(*note) (*answer, error)) *noteStream {
	var req *note
	done := false
	return &noteStream{
		send:      func(msg *note) error { req = msg; return nil },
		closeSend: func() error { return nil },
		receive: func(msg *answer) error {
			if done {
				return io.EOF
			}
			done = true
			res, err := call(req)
			if err == nil {
				*msg = *res
			}
			return err
		},
	}
}

func openConnectNotes(ctx context.Context, client *connect.Client[note, answer], shape core.Shape) *noteStream {
	switch shape {
	case core.ShapeClientStream:
		stream := client.CallClientStream(ctx)
		s := unaryNotes(func(*note) (*answer, error) {
			res, err := stream.CloseAndReceive()
			if err != nil {
				return nil, err
			}
			return res.Msg, nil
		})
		s.send = stream.Send
		return s
	case core.ShapeServerStream:
		var stream *connect.ServerStreamForClient[answer]
		var failed error
		return &noteStream{
			send: func(msg *note) error {
				stream, failed = client.CallServerStream(ctx, connect.NewRequest(msg))
				return failed
			},
			closeSend: func() error { return nil },
			receive: func(msg *answer) error {
				switch {
				case failed != nil:
					return failed
				case stream.Receive():
					*msg = *stream.Msg()
					return nil
				case stream.Err() != nil:
					return stream.Err()
				}
				return io.EOF
			},
		}
	case core.ShapeBidiStream:
		stream := client.CallBidiStream(ctx)
		return &noteStream{send: stream.Send, closeSend: stream.CloseRequest, receive: func(msg *answer) error {
			res, err := stream.Receive()
			if err != nil {
				return plainEOF(err)
			}
			*msg = *res
			return nil
		}}
	case core.ShapeUnary:
	}
	return unaryNotes(func(msg *note) (*answer, error) {
		res, err := client.CallUnary(ctx, connect.NewRequest(msg))
		if err != nil {
			return nil, err
		}
		return res.Msg, nil
	})
}

func plainEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return err
}

// call makes a call to its end. All requests are one message, which is filled again for each.
func (n *notes) call(t *testing.T, path rpctest.Path, shape core.Shape, inputs ...string) (outputs []string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream := n.open(ctx, t, path, shape)
	if !shape.ClientStreams() {
		inputs = inputs[:1]
	}
	var in note
	for _, input := range inputs {
		in.Text = input
		if err := stream.send(&in); err != nil {
			break
		}
	}
	_ = stream.closeSend()
	for {
		var out answer
		if err := stream.receive(&out); err == io.EOF { //nolint:errorlint // it is made so above
			return outputs, nil
		} else if err != nil {
			return outputs, err
		}
		outputs = append(outputs, out.Text)
	}
}

// eachNote runs test on each path that custom messages can take, in each shape.
func eachNote(t *testing.T, shapes []core.Shape, server, client []core.Interceptor, test func(t *testing.T, n *notes, path rpctest.Path, shape core.Shape)) {
	t.Helper()
	n := serveNotes(t, server, client)
	for _, path := range rpctest.Paths() {
		if path.Codec == "json" {
			continue
		}
		path.Codec = "note"
		for _, shape := range shapes {
			if path.Can(shape) {
				t.Run(path.String()+"/"+shape.String(), func(t *testing.T) { test(t, n, path, shape) })
			}
		}
	}
}

// noteOutputs are what the service answers to the inputs.
func noteOutputs(shape core.Shape, inputs ...string) []string {
	switch shape {
	case core.ShapeUnary:
		return inputs[:1]
	case core.ShapeClientStream:
		return []string{strings.Join(inputs, "")}
	case core.ShapeServerStream:
		return []string{inputs[0], inputs[0]}
	case core.ShapeBidiStream:
	}
	return inputs
}

func TestPassThroughOfACustomCodec(t *testing.T) {
	t.Run("hooks read and change the messages", func(t *testing.T) {
		change := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			call.OnRequest(func(_ context.Context, msg any) error {
				msg.(*note).Text += "+" + call.Side().String()[:1]
				return nil
			})
			call.OnResponse(func(_ context.Context, msg any) error {
				msg.(*answer).Text += "-" + call.Side().String()[:1]
				return nil
			})
			return next(ctx, call)
		})
		both := []core.Interceptor{change}
		eachNote(t, rpctest.Shapes(), both, both, func(t *testing.T, n *notes, path rpctest.Path, shape core.Shape) {
			got, err := n.call(t, path, shape, "a", "b")
			want := noteOutputs(shape, "a+c+s", "b+c+s")
			for i := range want {
				want[i] += "-s-c"
			}
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	})
	t.Run("errors", func(t *testing.T) {
		eachNote(t, rpctest.Shapes(), nil, nil, func(t *testing.T, n *notes, path rpctest.Path, shape core.Shape) {
			got, err := n.call(t, path, shape, "fail")
			if len(got) > 0 || !strings.HasSuffix(fmt.Sprint(err), "no such note") {
				t.Errorf("got %q, %v", got, err)
			}
			wantNative(t, path, err, core.CodeNotFound)
		})
	})
	respond := []core.Interceptor{core.InterceptorFunc(func(_ context.Context, call *core.Call, _ core.Handler) error {
		return call.SetResponse(&answer{"made by an interceptor"})
	})}
	answered := func(t *testing.T, n *notes, path rpctest.Path, shape core.Shape) {
		got, err := n.call(t, path, shape, "a")
		if err != nil || !slices.Equal(got, []string{"made by an interceptor"}) {
			t.Errorf("got %q, %v", got, err)
		}
	}
	t.Run("a server answers by itself", func(t *testing.T) { eachNote(t, single, respond, nil, answered) })
	t.Run("a client answers by itself", func(t *testing.T) {
		connectx.RegisterResponse[answer]()
		eachNote(t, single, nil, respond, answered)
	})
	t.Run("a client changes the response by Response", func(t *testing.T) {
		edit := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			call.Request().(*note).Text += "+"
			err := next(ctx, call)
			if err == nil {
				call.Response().(*answer).Text += "-"
			}
			return err
		})
		both := []core.Interceptor{edit}
		eachNote(t, []core.Shape{core.ShapeUnary}, both, both, func(t *testing.T, n *notes, path rpctest.Path, shape core.Shape) {
			if got, err := n.call(t, path, shape, "a"); err != nil || !slices.Equal(got, []string{"a++--"}) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	})
}

// retryOnce makes a second attempt after Unavailable.
var retryOnce = core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
	for {
		attempt := call.NewAttempt()
		err := next(ctx, attempt)
		if core.CodeOf(err) != core.CodeUnavailable || attempt.Attempt() == 2 || attempt.Committed() {
			call.Adopt(attempt)
			return err
		}
	}
})

// What cannot be copied must not be sent wrong: either an attempt has what the application gave, or there is
// no attempt.
func TestPassThroughOfACustomCodecWithAttempts(t *testing.T) {
	t.Run("the messages are those of the application", func(t *testing.T) {
		eachNote(t, rpctest.Shapes(), nil, []core.Interceptor{retryOnce}, func(t *testing.T, n *notes, path rpctest.Path, shape core.Shape) {
			n.failures.Store(1)
			inputs := []string{"a", "b", "flaky"}
			if !shape.ClientStreams() {
				inputs = inputs[2:]
			}
			got, err := n.call(t, path, shape, inputs...)
			if core.CodeOf(err) == core.CodeUnavailable && shape != core.ShapeUnary {
				return // there was no second attempt
			}
			if want := noteOutputs(shape, inputs...); err != nil || !slices.Equal(got, want) {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	})
	t.Run("hooks inside change each attempt's own", func(t *testing.T) {
		change := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			call.OnRequest(func(_ context.Context, msg any) error {
				msg.(*note).Text += "+"
				return nil
			})
			return next(ctx, call)
		})
		eachNote(t, rpctest.Shapes(), nil, []core.Interceptor{retryOnce, change}, func(t *testing.T, n *notes, path rpctest.Path, shape core.Shape) {
			n.failures.Store(1)
			got, err := n.call(t, path, shape, "flaky")
			if core.CodeOf(err) == core.CodeUnavailable {
				return // there was no second attempt
			}
			if want := noteOutputs(shape, "flaky+"); err != nil || !slices.Equal(got, want) {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	})
}

// encodings are how requests arrived at the server and responses at the client.
type encodings struct {
	mu             sync.Mutex
	server, client string
}

// statsOf is grpc-go's own view of a side: it shows interceptors no such header.
type statsOf struct {
	*encodings
	side core.Side
}

func (*encodings) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*encodings) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*encodings) HandleConn(context.Context, stats.ConnStats)                       {}

func (s statsOf) HandleRPC(_ context.Context, event stats.RPCStats) {
	if header, ok := event.(*stats.InHeader); ok {
		s.saw(s.side, header.Compression)
	}
}

func (e *encodings) saw(side core.Side, encoding string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if side == core.SideClient {
		e.client = encoding
	} else {
		e.server = encoding
	}
}

func (e *encodings) got() (server, client string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.server, e.client
}

// connect's is in the raw metadata.
func (e *encodings) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	err := next(ctx, call)
	md := call.RequestHeader()
	if call.Side() == core.SideClient {
		md = call.ResponseHeader()
	}
	if raw := md.Raw(); raw.HTTP {
		header := http.Header(raw.Map)
		e.saw(call.Side(), header.Get("Content-Encoding")+header.Get("Connect-Content-Encoding")+header.Get("Grpc-Encoding"))
	}
	return err
}

func TestPassThroughOfCompression(t *testing.T) {
	long := strings.Repeat("ab", 25)
	test := func(o rpctest.Options, input string, want func(path rpctest.Path) (server, client string)) func(*testing.T) {
		return func(t *testing.T) {
			e, rec := &encodings{}, &rpctest.Recorder{}
			o.Server = []core.Interceptor{errors.NewInterceptor(nil), rec.Interceptor("i"), e}
			o.Client = []core.Interceptor{rec.Interceptor("i"), e}
			o.ServerOptions = append(o.ServerOptions, grpc.StatsHandler(statsOf{e, core.SideServer}))
			o.DialOptions = append(o.DialOptions, grpc.WithStatsHandler(statsOf{e, core.SideClient}))
			rpctest.Run(t, &o, func(t *testing.T, c *rpctest.Client) {
				rec.Reset()
				res := c.Call(t.Context(), input)
				if res.Err != nil || strings.Join(res.Outputs, "") != input {
					t.Error(res)
				}
				if err := rec.Wait(patience); err != nil {
					t.Fatal(err)
				}
				server, client := want(c.Path)
				if gotServer, gotClient := e.got(); gotServer != server || gotClient != client {
					t.Errorf("the server got requests in %q, the client responses in %q; want %q and %q", gotServer, gotClient, server, client)
				}
				for _, side := range both {
					if got := hookTexts(rec.Events(side), "request"); !slices.Equal(got, []string{strconv.Quote(input)}) {
						t.Errorf("the hooks of the %s saw the requests %q", side, got)
					}
					if got := hookTexts(rec.Events(side), "response"); len(got) != len(res.Outputs) || got[0] != strconv.Quote(res.Outputs[0]) {
						t.Errorf("the hooks of the %s saw %d responses, want %d", side, len(got), len(res.Outputs))
					}
				}
				rec.Reset()
				if res := c.Call(t.Context(), "fail:not_found"); core.CodeOf(res.Err) != core.CodeNotFound || len(errors.Details(res.Err)) != 1 {
					t.Errorf("a failure is %s", res)
				}
			})
		}
	}
	// Requests are compressed by whom one tells to; responses by connect-go whenever the client takes it, and by grpc-go as the request was.
	t.Run("Difference: responses are compressed by default", test(rpctest.Options{}, long, func(path rpctest.Path) (server, client string) {
		if path.Server == rpctest.Connect {
			client = "gzip"
		}
		return "", client
	}))
	t.Run("requests", test(rpctest.Options{
		ClientOptions: []connect.ClientOption{connect.WithSendGzip()},
		DialOptions:   []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.UseCompressor("gzip"))},
	}, long, func(rpctest.Path) (server, client string) { return "gzip", "gzip" }))
	compress := func(ctx context.Context, _ *rpctest.Input) (string, error) {
		if err := grpc.SetSendCompressor(ctx, "gzip"); err == nil {
			return "", errors.DataLoss("SetSendCompressor works without NativeContext: say so in its doc")
		}
		if names, err := grpc.ClientSupportedCompressors(grpcx.NativeContext(ctx)); err != nil || !slices.Contains(names, "gzip") {
			return "", errors.DataLoss("the client takes %q, %s", names, err)
		}
		return long, grpc.SetSendCompressor(grpcx.NativeContext(ctx), "gzip")
	}
	var grpcServers []rpctest.Path
	for _, path := range rpctest.Paths() {
		if path.Server == rpctest.GRPC {
			grpcServers = append(grpcServers, path)
		}
	}
	t.Run("responses of a handler of grpc-go", func(t *testing.T) {
		e := &encodings{}
		rpctest.Run(t, &rpctest.Options{
			Server: []core.Interceptor{e}, Client: []core.Interceptor{e}, Paths: grpcServers,
			Cases:         map[string]rpctest.Case{"compress": compress},
			ServerOptions: []grpc.ServerOption{grpc.StatsHandler(statsOf{e, core.SideServer})},
			DialOptions:   []grpc.DialOption{grpc.WithStatsHandler(statsOf{e, core.SideClient})},
		}, func(t *testing.T, c *rpctest.Client) {
			res := c.Call(t.Context(), "compress")
			if _, client := e.got(); res.Err != nil || !slices.Equal(res.Outputs, []string{long}) || client != "gzip" {
				t.Error(res, client)
			}
		})
	})
}

// hookTexts are the messages that hooks saw.
func hookTexts(events []rpctest.Event, what string) (texts []string) {
	for _, event := range events {
		if event.What == what {
			texts = append(texts, event.Text)
		}
	}
	return texts
}

const etag = `"v1"`

// serveLook serves a method that may be called by GET, behind the interceptors.
func serveLook(t *testing.T, server ...core.Interceptor) (url string) {
	t.Helper()
	const procedure = "/weft.test.v1.Looker/Look"
	var calls atomic.Int32
	mux := http.NewServeMux()
	mux.Handle(procedure, connect.NewUnaryHandler(procedure, func(_ context.Context, req *connect.Request[dummyv1.DummyRequest]) (*connect.Response[dummyv1.DummyResponse], error) {
		if req.Header().Get("If-None-Match") == etag {
			return nil, connect.NewNotModifiedError(http.Header{"Last-Modified": {"yesterday"}})
		}
		if calls.Add(1) == 1 && req.Msg.GetInput() == "flaky" {
			return nil, errors.Unavailable("try again")
		}
		if req.Msg.GetInput() == "fail" {
			return nil, errors.NotFound("no such thing").WithDetails(&errdetails.ErrorInfo{Reason: "R"})
		}
		return connect.NewResponse(&dummyv1.DummyResponse{Output: req.Msg.GetInput()}), nil
	}, connect.WithIdempotency(connect.IdempotencyNoSideEffects), connect.WithInterceptors(connectx.New(server...))))
	return serveHTTP(t, mux) + procedure
}

func lookClient(t *testing.T, url string, version int, option connect.ClientOption, interceptors ...core.Interceptor) *connect.Client[dummyv1.DummyRequest, dummyv1.DummyResponse] {
	t.Helper()
	return connect.NewClient[dummyv1.DummyRequest, dummyv1.DummyResponse](httpOf(t, version), url,
		connect.WithIdempotency(connect.IdempotencyNoSideEffects), connect.WithHTTPGet(), option, connect.WithInterceptors(connectx.New(interceptors...)))
}

// seen collects what interceptors have to say.
type seen struct {
	mu    sync.Mutex
	lines []string
}

func (s *seen) addf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

func (s *seen) want(t *testing.T, lines ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.lines, lines) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(s.lines, "\n\t"), strings.Join(lines, "\n\t"))
	}
	s.lines = nil
}

func TestPassThroughOfConnectGET(t *testing.T) {
	describe := func(s *seen) core.Interceptor {
		return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			before := call.HTTPMethod()
			if call.Side() == core.SideServer {
				if err := call.ResponseHeader().Set("etag", etag); err != nil {
					return err
				}
				if err := call.ResponseHeader().Set("cache-control", "max-age=60"); err != nil {
					return err
				}
			}
			err := next(ctx, call)
			md := call.ResponseMetadata()
			s.addf("%s %q then %q, %s, %s, etag %s, cache-control %s", call.Side(), before, call.HTTPMethod(), call.Idempotency(), core.CodeOf(err),
				md.Get("etag"), md.Get("cache-control"))
			return err
		})
	}
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("success over HTTP/%d", version), func(t *testing.T) {
			server, client := &seen{}, &seen{}
			url := serveLook(t, describe(server))
			res, err := lookClient(t, url, version, connect.WithClientOptions(), describe(client)).CallUnary(t.Context(), connect.NewRequest(&dummyv1.DummyRequest{Input: "hi"}))
			if err != nil || res.Msg.GetOutput() != "hi" || res.Header().Get("Etag") != etag || res.Header().Get("Cache-Control") != "max-age=60" {
				t.Errorf("got %v, %v", res, err)
			}
			server.want(t, `server "GET" then "GET", no_side_effects, ok, etag "v1", cache-control max-age=60`)
			client.want(t, `client "" then "GET", no_side_effects, ok, etag "v1", cache-control max-age=60`)
		})
		t.Run(fmt.Sprintf("failure over HTTP/%d", version), func(t *testing.T) {
			server, client := &seen{}, &seen{}
			url := serveLook(t, describe(server))
			_, err := lookClient(t, url, version, connect.WithClientOptions(), describe(client)).CallUnary(t.Context(), connect.NewRequest(&dummyv1.DummyRequest{Input: "fail"}))
			wantNative(t, rpctest.Path{Client: rpctest.Connect}, err, core.CodeNotFound)
			server.want(t, `server "GET" then "GET", no_side_effects, not_found, etag "v1", cache-control max-age=60`)
			client.want(t, `client "" then "GET", no_side_effects, not_found, etag "v1", cache-control max-age=60`)
		})
		for name, chain := range map[string][]core.Interceptor{"no interceptor": nil, "the errors interceptor": {errors.NewInterceptor(nil)}} {
			t.Run(fmt.Sprintf("304 over HTTP/%d with %s", version, name), func(t *testing.T) {
				server, client := &seen{}, &seen{}
				url := serveLook(t, append(slices.Clone(chain), describe(server))...)
				req := connect.NewRequest(&dummyv1.DummyRequest{Input: "hi"})
				req.Header().Set("If-None-Match", etag)
				_, err := lookClient(t, url, version, connect.WithClientOptions(), append(slices.Clone(chain), describe(client))...).CallUnary(t.Context(), req)
				if !connect.IsNotModifiedError(err) {
					t.Errorf("the client got %v", err)
				}
				wantNative(t, rpctest.Path{Client: rpctest.Connect}, err, core.CodeUnknown)
				if native, ok := err.(*connect.Error); !ok || native.Meta().Get("Etag") != etag || native.Meta().Get("Last-Modified") != "yesterday" { //nolint:errorlint // it is the error itself
					t.Errorf("the error's metadata is %v", native.Meta())
				}
				server.want(t, `server "GET" then "GET", no_side_effects, unknown, etag "v1", cache-control max-age=60`)
				client.want(t, `client "" then "GET", no_side_effects, unknown, etag "v1", cache-control max-age=60`)

				plain, err := http.NewRequest(http.MethodGet, url+"?connect=v1&encoding=json&message=%7B%7D", nil)
				if err != nil {
					t.Fatal(err)
				}
				plain.Header.Set("If-None-Match", etag)
				status, header, body := fetch(t, httpOf(t, version), plain)
				if status != http.StatusNotModified || body != "" || !slices.Equal(header["Etag"], []string{etag}) || !slices.Equal(header["Last-Modified"], []string{"yesterday"}) {
					t.Errorf("a browser gets %d, %v, %q", status, header, body)
				}
			})
		}
	}
	t.Run("304 of an interceptor", func(t *testing.T) {
		url := serveLook(t, errors.NewInterceptor(nil), core.InterceptorFunc(func(context.Context, *core.Call, core.Handler) error {
			return connect.NewNotModifiedError(nil)
		}))
		_, err := lookClient(t, url, 2, connect.WithClientOptions()).CallUnary(t.Context(), connect.NewRequest(&dummyv1.DummyRequest{}))
		if !connect.IsNotModifiedError(err) {
			t.Error(err)
		}
	})
	t.Run("304 is an error for what is no GET", func(t *testing.T) {
		url := serveLook(t, errors.NewInterceptor(nil))
		for _, option := range []connect.ClientOption{connect.WithGRPC(), connect.WithGRPCWeb(), connect.WithHTTPGetMaxURLSize(1, true)} {
			req := connect.NewRequest(&dummyv1.DummyRequest{Input: "hi"})
			req.Header().Set("If-None-Match", etag)
			_, err := lookClient(t, url, 2, option).CallUnary(t.Context(), req)
			wantNative(t, rpctest.Path{Client: rpctest.Connect}, err, core.CodeUnknown)
			if connect.IsNotModifiedError(err) {
				t.Errorf("%v claims to be a 304", err)
			}
		}
	})
	t.Run("attempts", func(t *testing.T) {
		client := &seen{}
		url := serveLook(t)
		c := lookClient(t, url, 2, connect.WithClientOptions(), describe(client), retryOnce, describe(client))
		req := connect.NewRequest(&dummyv1.DummyRequest{Input: "flaky"})
		req.Header().Set("X-Mine", "1")
		if res, err := c.CallUnary(t.Context(), req); err != nil || res.Msg.GetOutput() != "flaky" {
			t.Errorf("got %v, %v", res, err)
		}
		client.want(t,
			`client "" then "GET", no_side_effects, unavailable, etag , cache-control `,
			`client "" then "GET", no_side_effects, ok, etag , cache-control `,
			`client "" then "GET", no_side_effects, ok, etag , cache-control `)
	})
	t.Run("from a browser", func(t *testing.T) {
		url := serveLook(t)
		for message, want := range map[string]string{`{"input":"hi"}`: `{"output":"hi"}`, `{"input":"fail"}`: `"code":"not_found"`} {
			plain, err := http.NewRequest(http.MethodGet, url+"?connect=v1&encoding=json&message="+neturl.QueryEscape(message), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, header, body := fetch(t, httpOf(t, 1), plain); !strings.Contains(strings.ReplaceAll(body, " ", ""), want) || header.Get("Content-Type") != "application/json" {
				t.Errorf("%s gives %v, %s", message, header, body)
			}
		}
	})
}

// fetch makes a request to its end.
func fetch(t *testing.T, client *http.Client, req *http.Request) (status int, header http.Header, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	res, err := client.Do(req.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(data)
}

// post makes a request by hand to the server of a path, and reads the answer.
func post(t *testing.T, s *rpctest.Servers, path rpctest.Path, method, contentType string, body []byte, header ...string) (status int, fields http.Header, answer string) {
	t.Helper()
	client := httpOf(t, path.HTTP)
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return s.Dial(ctx, path) }
	req, err := http.NewRequest(http.MethodPost, "http://example.com"+method, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return fetch(t, client, req)
}

func TestPassThroughOfJSON(t *testing.T) {
	w := &watch{}
	s := rpctest.NewServers(t, &rpctest.Options{Server: w.chain()})
	for _, version := range []int{1, 2} {
		path := rpctest.Path{Server: rpctest.Connect, Protocol: core.ProtocolConnect, HTTP: version}
		unary := func(t *testing.T, body string) (status int, decoded map[string]any) {
			t.Helper()
			status, header, answer := post(t, s, path, methodOf[core.ShapeUnary], "application/json", []byte(body))
			if err := json.Unmarshal([]byte(answer), &decoded); err != nil || header.Get("Content-Type") != "application/json" {
				t.Errorf("got %d, %v, %s", status, header, answer)
			}
			return status, decoded
		}
		t.Run(fmt.Sprintf("unary over HTTP/%d", version), func(t *testing.T) {
			w.Reset()
			if status, got := unary(t, `{"input":"hi"}`); status != http.StatusOK || !reflect.DeepEqual(got, map[string]any{"output": "hi"}) {
				t.Errorf("got %d, %v", status, got)
			}
			if requests := hookTexts(w.Events(core.SideServer), "request"); !slices.Equal(requests, []string{`"hi"`, `"hi"`}) {
				t.Errorf("the hooks saw %q", requests)
			}
		})
		t.Run(fmt.Sprintf("errors over HTTP/%d", version), func(t *testing.T) {
			status, got := unary(t, `{"input":"fail:not_found"}`)
			if status != http.StatusNotFound || got["code"] != "not_found" || got["message"] != "dummy failure: not_found" {
				t.Errorf("got %d, %v", status, got)
			}
			details, _ := got["details"].([]any)
			if detail, _ := details[0].(map[string]any); len(details) != 1 || detail["type"] != "google.rpc.ErrorInfo" || detail["value"] == "" {
				t.Errorf("got the details %v", details)
			}
			if status, got = unary(t, `{"input":"plain"}`); status != http.StatusInternalServerError ||
				!reflect.DeepEqual(got, map[string]any{"code": "unknown", "message": "unknown error"}) {
				t.Errorf("got %d, %v", status, got)
			}
			if status, got = unary(t, `{"input":"panic"}`); status != http.StatusInternalServerError ||
				!reflect.DeepEqual(got, map[string]any{"code": "internal", "message": "internal error"}) {
				t.Errorf("got %d, %v", status, got)
			}
		})
		t.Run(fmt.Sprintf("stream over HTTP/%d", version), func(t *testing.T) {
			for input, last := range map[string]string{"ab": `{}`, "fail-after:2:aborted": `"code":"aborted"`} {
				body, _ := json.Marshal(map[string]string{"input": input})
				status, header, answer := post(t, s, path, methodOf[core.ShapeServerStream], "application/connect+json", envelope(0, body))
				if status != http.StatusOK || header.Get("Content-Type") != "application/connect+json" {
					t.Errorf("got %d, %v", status, header)
				}
				var got []string
				for len(answer) >= 5 {
					size := int(binary.BigEndian.Uint32([]byte(answer[1:5])))
					got = append(got, strings.ReplaceAll(answer[5:5+size], " ", ""))
					answer = answer[5+size:]
				}
				if len(got) != 3 || !strings.HasPrefix(got[0], `{"output":`) || !strings.Contains(got[2], last) {
					t.Errorf("got %q", got)
				}
			}
		})
	}
	for _, protocol := range []core.Protocol{core.ProtocolGRPC, core.ProtocolGRPCWeb} { // for the Connect protocol rpctest has it
		for _, shape := range rpctest.Shapes() {
			t.Run(string(protocol)+"/"+shape.String(), func(t *testing.T) {
				c := s.Client(rpctest.Path{Client: rpctest.Connect, Server: rpctest.Connect, Protocol: protocol, Codec: "json", HTTP: 2}, shape)
				if got, want := show(c.Call(t.Context(), "hi")), []string{outputs(shape, "hi"), "code ok"}; !slices.Equal(got, want) {
					t.Errorf("got %q", got)
				}
				if got, want := show(c.Call(t.Context(), "fail:aborted")), show(&rpctest.Result{Err: failure(core.CodeAborted)}); !slices.Equal(got, want) {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		}
	}
}

// noise is a text that does not compress to much less.
func noise(size int) string {
	source := rand.New(rand.NewPCG(1, 2))
	text := make([]byte, size)
	for i := range text {
		text[i] = byte('!' + source.IntN(90))
	}
	return string(text)
}

func TestPassThroughOfSizeLimits(t *testing.T) {
	const limit = 1000
	big := noise(5 * limit)
	tests := []struct {
		name    string
		options rpctest.Options
		input   string
		side    core.Side // that has the limit
		blind   []core.Shape
		// success says that blind interceptors see a success; else they are not entered.
		success bool
	}{
		{
			"Difference: request too big for a server", rpctest.Options{
				HandlerOptions: []connect.HandlerOption{connect.WithReadMaxBytes(limit)},
				ServerOptions:  []grpc.ServerOption{grpc.MaxRecvMsgSize(limit)},
			}, big, core.SideServer, []core.Shape{core.ShapeUnary}, false,
		},
		{
			"Difference: response too big for its server", rpctest.Options{
				HandlerOptions: []connect.HandlerOption{connect.WithSendMaxBytes(limit)},
				ServerOptions:  []grpc.ServerOption{grpc.MaxSendMsgSize(limit)},
			}, "big", core.SideServer, single, true,
		},
		{
			"request too big for its client", rpctest.Options{
				ClientOptions: []connect.ClientOption{connect.WithSendMaxBytes(limit)},
				DialOptions:   []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(limit))},
			}, big, core.SideClient, nil, false,
		},
		{
			"response too big for a client", rpctest.Options{
				ClientOptions: []connect.ClientOption{connect.WithReadMaxBytes(limit)},
				DialOptions:   []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(limit))},
			}, "big", core.SideClient, nil, false,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rec := &rpctest.Recorder{}
			o := test.options
			o.Server, o.Client = []core.Interceptor{rec.Interceptor("i")}, []core.Interceptor{rec.Interceptor("i")}
			o.Cases = map[string]rpctest.Case{"big": func(context.Context, *rpctest.Input) (string, error) { return big, nil }}
			rpctest.Run(t, &o, func(t *testing.T, c *rpctest.Client) {
				rec.Reset()
				res := c.Call(t.Context(), test.input)
				if err := rec.Wait(patience); err != nil {
					t.Fatal(err)
				}
				wantNative(t, c.Path, res.Err, core.CodeResourceExhausted)
				if len(res.Outputs) > 0 {
					t.Errorf("the application got %d messages", len(res.Outputs))
				}
				want := []string{"resource_exhausted"}
				if slices.Contains(test.blind, c.Shape) {
					want = nil
					if test.success {
						want = []string{"ok"}
					}
				}
				events := rec.Events(test.side)
				if got := hookTexts(events, "end"); !slices.Equal(got, want) {
					t.Errorf("the interceptor of the %s saw the ends %q, want %q", test.side, got, want)
				}
				if got := hookTexts(rec.Events(core.SideClient), "end"); !slices.Equal(got, []string{"resource_exhausted"}) {
					t.Errorf("the interceptor of the client saw the ends %q", got)
				}
				// What is too big to be received has met no hook.
				received := "request"
				if test.side == core.SideClient {
					received = "response"
				}
				if got := hookTexts(events, received); strings.Contains(test.name, "too big for a ") && len(got) > 0 {
					t.Errorf("a hook saw the %s", received)
				}
			})
		})
	}
}

// of returns one or the other, as the path's server is connect-go or grpc-go.
func of[T any](stack rpctest.Stack, connectGo, grpcGo T) T {
	if stack == rpctest.GRPC {
		return grpcGo
	}
	return connectGo
}

// rawCall sends a request of data, of several pieces, to its end, and returns what came back.
func rawCall(t *testing.T, path rpctest.Path, shape core.Shape, o *rpctest.Options, header []string, pieces ...[]byte) (outputs []string, end string) {
	t.Helper()
	const id = 1
	c := newRawClient(t, rpctest.NewServers(t, o), path)
	c.open(id, shape, header...)
	for i, piece := range pieces {
		c.data(id, i == len(pieces)-1, piece)
	}
	if len(pieces) == 0 {
		c.data(id, true, nil)
	}
	synctest.Wait()
	return c.result(t, id, shape)
}

// messages are a good one, where the shape takes several, and a bad one.
func messages(protocol core.Protocol, shape core.Shape, flags byte, bad string) [][]byte {
	var all [][]byte
	if shape.ClientStreams() && flags == 0 {
		all = append(all, onWire(protocol, shape, &dummyv1.DummyRequest{Input: "a"}))
	}
	if !enveloped(protocol, shape) {
		return append(all, []byte(bad))
	}
	return append(all, envelope(flags, []byte(bad)))
}

func wantEnd(t *testing.T, outputs []string, end string, wantOutputs []string, want core.Code) {
	t.Helper()
	if end != want.String() || !slices.Equal(outputs, wantOutputs) {
		t.Errorf("the client got %q, %s, want %q, %s", outputs, end, wantOutputs, want)
	}
}

// TestDifferences pins where the stacks differ and no adapter can help: docs/compatibility.md lists them. A
// subtest that fails because the difference is gone is good news, and ends here and there.
func TestDifferences(t *testing.T) {
	t.Run("Servers", differencesOfServers)
	t.Run("Clients", differencesOfClients)
}

func differencesOfServers(t *testing.T) {
	each := func(name string, shapes []core.Shape, test func(t *testing.T, path rpctest.Path, shape core.Shape)) {
		t.Run("Difference: "+name, func(t *testing.T) { eachBubble(t, rawServerPaths, shapes, test) })
	}
	// failed is what a server's chain sees of a request that fails after the good message, if it has one.
	failed := func(shape core.Shape, code core.Code) (want sum, outputs []string) {
		want = sum{calls: 1, code: code}
		if shape.ClientStreams() {
			want.requests = []string{"a"}
		}
		if shape == core.ShapeBidiStream {
			want.responses = []string{"a"}
		}
		return want, want.responses
	}

	each("message that cannot be decoded", rpctest.Shapes(), func(t *testing.T, path rpctest.Path, shape core.Shape) {
		w := &watch{}
		got, end := rawCall(t, path, shape, &rpctest.Options{Server: w.chain()}, nil, messages(path.Protocol, shape, 0, "\xff\xff\xff")...)
		code := of(path.Server, core.CodeInvalidArgument, core.CodeInternal)
		want, outputs := failed(shape, code)
		if shape == core.ShapeUnary {
			want = sum{} // it is decoded before the chain
		}
		w.check(t, core.SideServer, shape, want)
		wantEnd(t, got, end, outputs, code)
	})
	each("message that cannot be decompressed", rpctest.Shapes(), func(t *testing.T, path rpctest.Path, shape core.Shape) {
		w := &watch{}
		header := []string{"grpc-encoding", "gzip"}
		if path.Protocol == core.ProtocolConnect {
			header[0] = "connect-content-encoding"
		}
		if !enveloped(path.Protocol, shape) {
			header[0] = "content-encoding"
		}
		got, end := rawCall(t, path, shape, &rpctest.Options{Server: w.chain()}, header, messages(path.Protocol, shape, 1, "not gzip")...)
		want := sum{calls: 1, code: of(path.Server, core.CodeInvalidArgument, core.CodeInternal)}
		code := want.code
		if shape == core.ShapeUnary {
			want = sum{}
		}
		w.check(t, core.SideServer, shape, want)
		wantEnd(t, got, end, nil, code)
	})
	each("decode error of a stream that an interceptor replaces", streams, func(t *testing.T, path rpctest.Path, shape core.Shape) {
		w := &watch{}
		replace := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			return errors.FailedPrecondition("replaced").WithCause(next(ctx, call))
		})
		got, end := rawCall(t, path, shape, &rpctest.Options{Server: append(w.chain(), replace)}, nil, messages(path.Protocol, shape, 0, "\xff\xff\xff")...)
		want, outputs := failed(shape, core.CodeFailedPrecondition)
		w.check(t, core.SideServer, shape, want)
		wantEnd(t, got, end, outputs, of(path.Server, core.CodeFailedPrecondition, core.CodeInternal)) // grpc-go had sent it
	})
	each("deadline that has passed on arrival", rpctest.Shapes(), func(t *testing.T, path rpctest.Path, shape core.Shape) {
		w := &watch{}
		header := []string{"grpc-timeout", "0n"}
		if path.Protocol == core.ProtocolConnect {
			header = []string{"connect-timeout-ms", "0"}
		}
		got, end := rawCall(t, path, shape, &rpctest.Options{Server: w.chain()}, header, onWire(path.Protocol, shape, &dummyv1.DummyRequest{Input: "a"}))
		w.check(t, core.SideServer, shape, of(path.Server, sum{calls: 1, code: core.CodeDeadlineExceeded}, sum{}))
		wantEnd(t, got, end, nil, core.CodeDeadlineExceeded) // the handler never runs
	})
	each("malformed timeout", rpctest.Shapes(), func(t *testing.T, path rpctest.Path, shape core.Shape) {
		w := &watch{}
		key := "grpc-timeout"
		if path.Protocol == core.ProtocolConnect {
			key = "connect-timeout-ms"
		}
		got, end := rawCall(t, path, shape, &rpctest.Options{Server: w.chain()}, []string{key, "soon"}, onWire(path.Protocol, shape, &dummyv1.DummyRequest{Input: "a"}))
		w.check(t, core.SideServer, shape, sum{})
		wantEnd(t, got, end, nil, of(path.Server, core.CodeInvalidArgument, core.CodeInternal))
	})
	each("metadata that is not base64", rpctest.Shapes(), func(t *testing.T, path rpctest.Path, shape core.Shape) {
		w, s := &watch{}, &seen{}
		look := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			values, err := call.RequestHeader().Lookup("x-data-bin")
			s.addf("%q %s", values, core.CodeOf(err))
			return next(ctx, call)
		})
		_, end := rawCall(t, path, shape, &rpctest.Options{Server: append(w.chain(), look)}, []string{"x-data-bin", "!"}, onWire(path.Protocol, shape, &dummyv1.DummyRequest{Input: "a"}))
		s.want(t, of(path.Server, []string{"[] invalid_argument"}, nil)...)
		if want := of(path.Server, "ok", "internal"); end != want {
			t.Errorf("the client got %s, want %s", end, want)
		}
	})
	each("number of messages that is not one", []core.Shape{core.ShapeUnary, core.ShapeServerStream}, func(t *testing.T, path rpctest.Path, shape core.Shape) {
		if !enveloped(path.Protocol, shape) {
			return // there is always one
		}
		msg := onWire(path.Protocol, shape, &dummyv1.DummyRequest{Input: "a"})
		for _, pieces := range [][][]byte{nil, {msg, msg}} {
			w := &watch{}
			got, end := rawCall(t, path, shape, &rpctest.Options{Server: w.chain()}, nil, pieces...)
			code := of(path.Server, core.CodeUnimplemented, core.CodeInternal)
			want := sum{calls: 1, code: code}
			if shape == core.ShapeUnary {
				want = sum{}
			}
			// connect-go counts above the hooks, grpc-go below.
			if len(pieces) == 2 && shape == core.ShapeServerStream && path.Server == rpctest.Connect {
				want.requests = []string{"a", "a"}
			}
			w.check(t, core.SideServer, shape, want)
			wantEnd(t, got, end, nil, code)
		}
	})
	t.Run("Difference: unknown method", func(t *testing.T) {
		const unknown = "/weft.dummy.v1.DummyService/Nothing"
		eachBubble(t, rawServerPaths, rpctest.Shapes(), func(t *testing.T, path rpctest.Path, shape core.Shape) {
			for _, handled := range []bool{false, true} {
				w, s := &watch{}, &seen{}
				o := &rpctest.Options{Server: append(w.chain(), core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
					s.addf("%s %s", call.Method(), call.Shape())
					return next(ctx, call)
				}))}
				if handled {
					o.ServerOptions = []grpc.ServerOption{grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return errors.NotFound("handled") })}
				}
				c := newRawClient(t, rpctest.NewServers(t, o), path)
				c.openMethod(1, unknown, contentType(path.Protocol, shape))
				c.data(1, true, c.message(shape, "a"))
				synctest.Wait()
				switch r := c.replies[1]; {
				case path.Server == rpctest.Connect:
					s.want(t)
					if r.fields[":status"] != "404" || r.fields["grpc-status"] != "" {
						t.Errorf("the client got %v", r.fields)
					}
				case !handled:
					s.want(t)
					if r.fields["grpc-status"] != "12" {
						t.Errorf("the client got %v", r.fields)
					}
				default:
					s.want(t, unknown+" bidi_stream") // whatever it was meant to be
					if r.fields["grpc-status"] != "5" {
						t.Errorf("the client got %v", r.fields)
					}
				}
			}
		})
	})
	t.Run("What never enters the chain", func(t *testing.T) {
		eachBubble(t, rawServerPaths, rpctest.Shapes(), func(t *testing.T, path rpctest.Path, shape core.Shape) {
			w := &watch{}
			key := "grpc-encoding"
			if path.Protocol == core.ProtocolConnect {
				key = "connect-content-encoding"
			}
			if !enveloped(path.Protocol, shape) {
				key = "content-encoding"
			}
			got, end := rawCall(t, path, shape, &rpctest.Options{Server: w.chain()}, []string{key, "zip"}, messages(path.Protocol, shape, 1, "zip")...)
			wantEnd(t, got, end, nil, core.CodeUnimplemented)
			c := newRawClient(t, rpctest.NewServers(t, &rpctest.Options{Server: w.chain()}), path)
			c.openMethod(1, methodOf[shape], "text/plain")
			c.data(1, true, c.message(shape, "a"))
			synctest.Wait()
			if r := c.replies[1]; r == nil || r.fields[":status"] != "415" {
				t.Errorf("a content type of no protocol gets %v", r)
			}
			w.check(t, core.SideServer, shape, sum{})
		})
	})
	t.Run("Difference: client over HTTP/1.1 that goes away", func(t *testing.T) {
		for _, version := range []int{1, 2} {
			t.Run(fmt.Sprintf("HTTP/%d", version), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					path := rpctest.Path{Server: rpctest.Connect, Protocol: core.ProtocolConnect, HTTP: version}
					shape := core.ShapeClientStream
					w := &watch{}
					s := rpctest.NewServers(t, &rpctest.Options{Server: w.chain(), Cases: map[string]rpctest.Case{
						"wait": func(ctx context.Context, _ *rpctest.Input) (string, error) {
							select {
							case <-ctx.Done():
								return "", ctx.Err()
							case <-time.After(time.Hour):
								return "", errors.OutOfRange("nobody told me")
							}
						},
					}})
					msg := onWire(path.Protocol, shape, &dummyv1.DummyRequest{Input: "wait"})
					want := sum{calls: 1, requests: []string{"wait"}, code: core.CodeCanceled}
					if version == 2 {
						c := newRawClient(t, s, path)
						c.open(1, shape)
						c.data(1, false, msg)
						synctest.Wait()
						_ = c.Close()
					} else {
						conn, err := s.Dial(t.Context(), path)
						if err != nil {
							t.Fatal(err)
						}
						fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: example.com\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n",
							methodOf[shape], contentType(path.Protocol, shape), len(msg), msg)
						synctest.Wait()
						_ = conn.Close()
						synctest.Wait()
						w.underWay(t) // net/http looks for it only when the whole request was read
						time.Sleep(2 * time.Hour)
						want.code = core.CodeOutOfRange
					}
					synctest.Wait()
					w.check(t, core.SideServer, shape, want)
				})
			})
		}
	})
	t.Run("Difference: size error of a stream that an interceptor replaces", func(t *testing.T) {
		replace := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			return errors.FailedPrecondition("replaced").WithCause(next(ctx, call))
		})
		rpctest.Run(t, &rpctest.Options{
			Server: []core.Interceptor{replace}, Shapes: streams,
			HandlerOptions: []connect.HandlerOption{connect.WithReadMaxBytes(100)},
			ServerOptions:  []grpc.ServerOption{grpc.MaxRecvMsgSize(100)},
		}, func(t *testing.T, c *rpctest.Client) {
			res := c.Call(t.Context(), noise(200))
			wantNative(t, c.Path, res.Err, of(c.Path.Server, core.CodeFailedPrecondition, core.CodeResourceExhausted))
		})
	})
	t.Run("Difference: largest request", func(t *testing.T) {
		largest(t, theServer, func(c *rpctest.Client) *rpctest.Result { return c.Call(t.Context(), "big:"+strings.Repeat("x", 5<<20)) })
	})
	t.Run("Difference: bidirectional stream over HTTP/1.1", func(t *testing.T) {
		w := &watch{}
		s := rpctest.NewServers(t, &rpctest.Options{Server: w.chain()})
		for _, path := range rpctest.Paths() {
			if path.HTTP == 1 {
				res := s.Client(path, core.ShapeBidiStream).Call(t.Context(), "a")
				wantNative(t, path, res.Err, core.CodeUnknown) // it is "HTTP status 505"
				if !strings.Contains(res.Err.Error(), "505") {
					t.Errorf("%s: %s", path, res)
				}
			}
		}
		w.check(t, core.SideServer, core.ShapeBidiStream, sum{})
	})
	t.Run("Difference: TLS state of the peer", func(t *testing.T) {
		s, rec := &seen{}, &rpctest.Recorder{}
		chain := []core.Interceptor{rec.Interceptor("i"), core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			err := next(ctx, call)
			s.addf("%s %t", call.Side(), call.Peer().TLS != nil)
			return err
		})}
		rpctest.Run(t, &rpctest.Options{Server: chain, Client: chain, Network: rpctest.TLS}, func(t *testing.T, c *rpctest.Client) {
			if res := c.Call(t.Context(), "a"); res.Err != nil {
				t.Error(res)
			}
			if err := rec.Wait(patience); err != nil {
				t.Fatal(err)
			}
			s.mu.Lock()
			slices.Sort(s.lines)
			s.mu.Unlock()
			s.want(t, fmt.Sprintf("client %t", c.Path.Client == rpctest.GRPC), fmt.Sprintf("server %t", c.Path.Server == rpctest.GRPC))
		})
	})
}

// largest is a call that is too large for grpc-go on one side, unless it is told otherwise.
func largest(t *testing.T, sides []core.Side, call func(c *rpctest.Client) *rpctest.Result) {
	t.Helper()
	rpctest.Run(t, &rpctest.Options{
		Shapes: []core.Shape{core.ShapeUnary},
		Cases: map[string]rpctest.Case{
			"big":  func(context.Context, *rpctest.Input) (string, error) { return strings.Repeat("x", 5<<20), nil },
			"big:": func(context.Context, *rpctest.Input) (string, error) { return "", nil },
		},
	}, func(t *testing.T, c *rpctest.Client) {
		stack := c.Path.Client
		if sides[0] == core.SideServer {
			stack = c.Path.Server
		}
		res := call(c)
		if want := of(stack, core.CodeOK, core.CodeResourceExhausted); core.CodeOf(res.Err) != want {
			t.Errorf("got %v, want %s", res.Err, want)
		}
	})
}

// registered says that this process has registered the type that was not seen yet.
var registered atomic.Bool

func differencesOfClients(t *testing.T) {
	each := func(name string, shapes []core.Shape, play func(r *fakeRequest), test func(t *testing.T, path rpctest.Path, shape core.Shape, w *watch, res *rpctest.Result)) {
		t.Run(name, func(t *testing.T) {
			eachBubble(t, rawClientPaths, shapes, func(t *testing.T, path rpctest.Path, shape core.Shape) {
				w := &watch{}
				test(t, path, shape, w, serveFake(t, path, shape, w, &fakeServer{play: play}).Call(soon(t), "x"))
			})
		})
	}
	// check demands the same code of the chain and the application.
	check := func(t *testing.T, path rpctest.Path, shape core.Shape, w *watch, res *rpctest.Result, code core.Code, responses ...string) {
		t.Helper()
		w.check(t, core.SideClient, shape, sum{calls: 1, code: code, requests: []string{"x"}, responses: responses})
		wantNative(t, path, res.Err, code)
		if len(res.Outputs) > 0 {
			t.Errorf("the application got %q", res.Outputs)
		}
	}
	// early says what a connect client's hooks see of a client stream's response before the end that grpc-go waits for.
	early := func(path rpctest.Path, shape core.Shape, response string) []string {
		if path.Client == rpctest.Connect && shape == core.ShapeClientStream {
			return []string{response}
		}
		return nil
	}
	each("Difference: failure after the one response", single, func(r *fakeRequest) { r.answer(core.CodeAborted, "half done") },
		func(t *testing.T, path rpctest.Path, shape core.Shape, w *watch, res *rpctest.Result) {
			check(t, path, shape, w, res, core.CodeAborted, early(path, shape, "half done")...)
		})
	each("Difference: no response", single, func(r *fakeRequest) { r.answer(core.CodeOK) },
		func(t *testing.T, path rpctest.Path, shape core.Shape, w *watch, res *rpctest.Result) {
			if enveloped(path.Protocol, shape) { // else there is always one
				check(t, path, shape, w, res, of(path.Client, core.CodeUnimplemented, core.CodeInternal))
			}
		})
	each("Difference: two responses", single, func(r *fakeRequest) { r.answer(core.CodeOK, "a", "b") },
		func(t *testing.T, path rpctest.Path, shape core.Shape, w *watch, res *rpctest.Result) {
			if enveloped(path.Protocol, shape) {
				check(t, path, shape, w, res, of(path.Client, core.CodeUnimplemented, core.CodeInternal), early(path, shape, "a")...)
			}
		})
	each("status out of range", rpctest.Shapes(), func(r *fakeRequest) { r.answer(99) },
		func(t *testing.T, path rpctest.Path, shape core.Shape, w *watch, res *rpctest.Result) {
			code := core.CodeInternal
			if path.Protocol == core.ProtocolConnect {
				code = core.CodeUnknown // it is a name there, which nobody knows
			}
			check(t, path, shape, w, res, code)
		})
	each("Difference: response that cannot be decoded", rpctest.Shapes(), func(r *fakeRequest) {
		bad := []byte("\xff\xff\xff")
		if enveloped(r.protocol, r.shape) {
			bad = envelope(0, bad)
		}
		r.header()
		r.data(r.id, false, bad)
		if r.protocol == core.ProtocolGRPC {
			r.headers(r.id, true, "grpc-status", "0")
		} else {
			r.data(r.id, true, nil)
		}
	}, func(t *testing.T, path rpctest.Path, shape core.Shape, w *watch, res *rpctest.Result) {
		check(t, path, shape, w, res, of(path.Client, core.CodeInvalidArgument, core.CodeInternal))
	})
	t.Run("Difference: peer before the call", func(t *testing.T) {
		s := &seen{}
		rpctest.Run(t, &rpctest.Options{Client: []core.Interceptor{core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			before := call.Peer().Addr
			err := next(ctx, call)
			s.addf("%t %t", before != "", call.Peer().Addr != "")
			return err
		})}}, func(t *testing.T, c *rpctest.Client) {
			if res := c.Call(t.Context(), "a"); res.Err != nil {
				t.Error(res)
			}
			s.want(t, fmt.Sprintf("%t true", c.Path.Client == rpctest.Connect))
		})
	})
	t.Run("Difference: header and trailer of a failed unary call", func(t *testing.T) {
		s := &seen{}
		rpctest.Run(t, &rpctest.Options{Client: []core.Interceptor{core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			err := next(ctx, call)
			s.addf("header %s trailer %s", call.ResponseHeader(), call.ResponseTrailer())
			return err
		})}}, func(t *testing.T, c *rpctest.Client) {
			if res := c.With("x-echo-a", "1").Call(t.Context(), "metadata-fail:aborted"); core.CodeOf(res.Err) != core.CodeAborted {
				t.Error(res)
			}
			if c.Path.Client == rpctest.Connect && c.Shape == core.ShapeUnary {
				s.want(t, "header metadata[] trailer metadata[x-echo-a x-trailer-a]")
			} else {
				s.want(t, "header metadata[x-echo-a] trailer metadata[x-trailer-a]")
			}
		})
	})
	t.Run("Difference: answer of a type that was not seen yet", func(t *testing.T) {
		type unseen struct{ Text string }
		respond := []core.Interceptor{core.InterceptorFunc(func(_ context.Context, call *core.Call, _ core.Handler) error {
			return call.SetResponse(&unseen{"answered"})
		})}
		native := &unseen{}
		conn := connOf(t, "passthrough:///nobody", respond, grpc.WithDefaultCallOptions(grpc.ForceCodec(noteCodec{})))
		if err := conn.Invoke(t.Context(), noteMethod(core.ShapeUnary), &note{}, native); err != nil || native.Text != "answered" {
			t.Errorf("grpc-go: %v, %v", native, err)
		}
		client := connect.NewClient[note, unseen](http.DefaultClient, "http://nobody"+noteMethod(core.ShapeUnary), connect.WithCodec(noteCodec{}),
			connect.WithInterceptors(connectx.New(respond...)))
		if !registered.Swap(true) { // not with -count=2
			_, err := client.CallUnary(t.Context(), connect.NewRequest(&note{}))
			wantNative(t, rpctest.Path{Client: rpctest.Connect}, err, core.CodeInternal)
			if !strings.Contains(fmt.Sprint(err), "connectx.RegisterResponse[parity.unseen]()") {
				t.Errorf("the error does not name the remedy: %v", err)
			}
		}
		connectx.RegisterResponse[unseen]()
		if res, err := client.CallUnary(t.Context(), connect.NewRequest(&note{})); err != nil || res.Msg.Text != "answered" {
			t.Errorf("connect-go: %v, %v", res, err)
		}
	})
	t.Run("Difference: descriptor of a method that is made by hand", func(t *testing.T) {
		s := &seen{}
		look := []core.Interceptor{core.InterceptorFunc(func(_ context.Context, call *core.Call, _ core.Handler) error {
			s.addf("%t", call.Schema() != nil)
			return call.SetResponse(&dummyv1.DummyResponse{})
		})}
		connectx.RegisterResponse[dummyv1.DummyResponse]()
		client := connect.NewClient[dummyv1.DummyRequest, dummyv1.DummyResponse](http.DefaultClient, "http://nobody"+methodOf[core.ShapeUnary],
			connect.WithInterceptors(connectx.New(look...)))
		if _, err := client.CallUnary(t.Context(), connect.NewRequest(&dummyv1.DummyRequest{})); err != nil {
			t.Error(err)
		}
		if err := connOf(t, "passthrough:///nobody", look).Invoke(t.Context(), methodOf[core.ShapeUnary], &dummyv1.DummyRequest{}, &dummyv1.DummyResponse{}); err != nil {
			t.Error(err)
		}
		s.want(t, "false", "true")
	})
	t.Run("Difference: text for an unknown method", func(t *testing.T) {
		const unknown = "/weft.dummy.v1.DummyService/Nothing"
		s := rpctest.NewServers(t, &rpctest.Options{})
		for _, path := range rpctest.Paths() {
			var err error
			if path.Client == rpctest.GRPC {
				err = s.Conn(path).Invoke(t.Context(), unknown, &dummyv1.DummyRequest{}, &dummyv1.DummyResponse{})
			} else {
				client := httpOf(t, path.HTTP)
				client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return s.Dial(ctx, path) }
				_, err = connect.NewClient[dummyv1.DummyRequest, dummyv1.DummyResponse](client, "http://example.com"+unknown, s.ConnectOptions(path)...).
					CallUnary(t.Context(), connect.NewRequest(&dummyv1.DummyRequest{}))
			}
			wantNative(t, path, err, core.CodeUnimplemented)
			if want := of(path.Server, "404", "unknown method"); !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("%s: %v, want %q in it", path, err, want)
			}
		}
	})
	t.Run("Difference: stream that cannot be opened", func(t *testing.T) {
		refuse := core.InterceptorFunc(func(context.Context, *core.Call, core.Handler) error { return errors.PermissionDenied("no") })
		rpctest.Run(t, &rpctest.Options{Client: []core.Interceptor{refuse}, Shapes: []core.Shape{core.ShapeClientStream, core.ShapeBidiStream}}, func(t *testing.T, c *rpctest.Client) {
			stream, err := c.Open(t.Context())
			if err == nil {
				_, err = stream.Receive()
			}
			if opened := stream != nil; opened != (c.Path.Client == rpctest.Connect) {
				t.Errorf("the stream was opened: %t", opened)
			}
			wantNative(t, c.Path, err, core.CodePermissionDenied)
		})
	})
	t.Run("Difference: opening of a server stream", func(t *testing.T) {
		eachBubble(t, rawClientPaths, []core.Shape{core.ShapeServerStream}, func(t *testing.T, path rpctest.Path, shape core.Shape) {
			c := serveFake(t, path, shape, &watch{}, &fakeServer{play: func(r *fakeRequest) {
				time.Sleep(time.Minute)
				r.answer(core.CodeOK, "late")
			}})
			stream, err := c.Open(soon(t))
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			if err := stream.Send("x"); err != nil {
				t.Error(err)
			}
			if waited := time.Since(start) >= time.Minute; waited != (path.Client == rpctest.Connect) {
				t.Errorf("the stream was open after %s", time.Since(start))
			}
			if res := stream.Drain(); res.Err != nil || !slices.Equal(res.Outputs, []string{"late"}) {
				t.Error(res)
			}
		})
	})
	t.Run("Difference: largest response", func(t *testing.T) {
		largest(t, []core.Side{core.SideClient}, func(c *rpctest.Client) *rpctest.Result { return c.Call(t.Context(), "big") })
	})
}

func TestPassThroughOfTheMetadataOfAnError(t *testing.T) {
	s := &seen{}
	look := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		err := next(ctx, call)
		weft, _ := errors.AsType[*errors.Error](err)
		s.addf("%q", pairsOf(weft.Metadata()))
		return err
	})
	rpctest.Run(t, &rpctest.Options{Client: []core.Interceptor{look}}, func(t *testing.T, c *rpctest.Client) {
		res := c.With("x-echo-a", "1").Call(t.Context(), "metadata-fail:aborted")
		weft, ok := errors.AsType[*errors.Error](res.Err)
		if want := []string{"x-echo-a=1", "x-trailer-a=1"}; !ok || !slices.Equal(pairsOf(weft.Metadata()), want) {
			t.Errorf("the application's error has %q, want %q", pairsOf(weft.Metadata()), want)
		}
		s.want(t, `["x-echo-a=1" "x-trailer-a=1"]`) // of the error that next returned
	})
}
