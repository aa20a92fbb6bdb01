package web_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // as most servers have it
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/grpcx/web"
	"github.com/rpcweft/weft/internal/dummy"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
	"github.com/rpcweft/weft/rpctest"
)

// newHandler returns the handler for a grpc server with the Dummy service and the options' interceptors.
func newHandler(t testing.TB, o *rpctest.Options, more *web.Options) (http.Handler, *grpc.Server) {
	t.Helper()
	native := grpc.NewServer(append(grpcx.ServerOptions(o.Server...), o.ServerOptions...)...)
	dummyv1.RegisterDummyServiceServer(native, dummy.New(o.Cases).GRPC())
	handler, err := web.NewHandler(native, more)
	if err != nil {
		t.Fatal(err)
	}
	return handler, native
}

// listen serves the handler over TCP.
func listen(t testing.TB, network rpctest.Network, handler http.Handler) *httptest.Server {
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetHTTP2(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	if network == rpctest.TLS {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server
}

func serve(t testing.TB, o *rpctest.Options, more *web.Options) *httptest.Server {
	t.Helper()
	handler, native := newHandler(t, o, more)
	t.Cleanup(native.Stop)
	return listen(t, o.Network, handler)
}

// through returns options whose clients connect to server.
func through(o *rpctest.Options, server *httptest.Server) *rpctest.Options {
	addr := server.Listener.Addr().String()
	out := *o
	out.Paths = paths()
	out.Dial = func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", addr) }
	return &out
}

// paths are those to a grpc server behind the handler.
func paths() []rpctest.Path {
	var all []rpctest.Path
	for _, path := range rpctest.Paths() {
		if path.Server == rpctest.Connect {
			path.Server = rpctest.GRPC
			all = append(all, path)
		}
	}
	return all
}

// environment ends the server with the clients.
type environment struct {
	*rpctest.Servers

	server *httptest.Server
}

func (e environment) Close() {
	e.server.CloseClientConnections()
	_ = e.server.Listener.Close()
	e.Servers.Close()
}

func TestTheHandlerKeepsThePromisesOfAnAdapter(t *testing.T) {
	adapter := rpctest.GRPCAdapter()
	adapter.Paths = paths()
	adapter.Start = func(t testing.TB, o *rpctest.Options) rpctest.Environment {
		server := serve(t, o, nil)
		return environment{rpctest.NewServers(t, through(o, server)), server}
	}
	rpctest.TestAdapter(t, adapter)
}

// show is what an application sees of a result.
func show(res *rpctest.Result) string {
	out := fmt.Sprintf("%q %s %s", res.Outputs, res.Metadata(), core.CodeOf(res.Err))
	if weft, ok := errors.AsType[*errors.Error](res.Err); ok {
		out += fmt.Sprintf(" %q", weft.Message())
		for _, detail := range weft.Details() {
			out += fmt.Sprintf(" %s %x", detail.TypeURL, detail.Value)
		}
	}
	return out
}

func TestOutcomesAreThoseOfConnectServers(t *testing.T) {
	few := []string{"", "hi", "plain", "panic", "metadata", "metadata-fail:aborted", "fail-after:3:data_loss", "fail-after:50:data_loss", "odd", "deadline"}
	all := slices.Clone(few)
	for code := core.CodeCanceled; code.IsError(); code++ {
		all = append(all, "fail:"+code.String())
	}
	for network, inputs := range map[rpctest.Network][]string{rpctest.TCP: all, rpctest.TLS: few} {
		rec := &rpctest.Recorder{Full: true}
		o := &rpctest.Options{
			Network: network,
			Server:  []core.Interceptor{rec.Interceptor(""), errors.NewInterceptor(nil)},
			Cases:   map[string]rpctest.Case{"odd": rpctest.Raises(errors.NotFound("a%%20\r\nb ü 日本 \"q\" \t").WithMetadata("x-a", "1, 2", "x-b-bin", "\x00\xff"))},
		}
		connects := rpctest.NewServers(t, o)
		rpctest.Run(t, through(o, serve(t, o, nil)), func(t *testing.T, c *rpctest.Client) {
			twin := c.Path
			twin.Server = rpctest.Connect
			rec.Reset()
			clients := []*rpctest.Client{connects.Client(twin, c.Shape), c}
			for i, c := range clients {
				clients[i] = c.With("x-echo-a", "1").With("x-echo-a", "2, 3").With("x-echo-b-bin", "\x00\xff,").With("x-echo-b-bin", "")
			}
			for _, input := range inputs {
				if input == "deadline" && c.Shape == core.ShapeServerStream {
					continue // the number of digits is the number of messages
				}
				var seen [2]string
				var events [2][]rpctest.Event
				for i, c := range clients {
					seen[i] = show(c.Call(t.Context(), input))
					if err := rec.Wait(10 * time.Second); err != nil {
						t.Fatal(err)
					}
					events[i] = rec.Reset()
				}
				if seen[0] != seen[1] {
					t.Errorf("%q differs:\n\tconnect-go %s\n\tthrough us %s", input, seen[0], seen[1])
				}
				if diff := rpctest.Diff(events[0], events[1]); diff != "" {
					t.Errorf("%q: the interceptors saw another call:\n%s", input, diff)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			if res := c.Call(ctx, "deadline"); res.Err != nil || len(strings.Join(res.Outputs, "")) != 7 {
				t.Errorf("the handler saw the deadline %q, %v", res.Outputs, res.Err)
			}
		})
	}
}

func TestInterceptorsSeeHowACallCame(t *testing.T) {
	for _, network := range []rpctest.Network{rpctest.TCP, rpctest.TLS} {
		var call struct {
			sync.Mutex
			seen string
		}
		o := &rpctest.Options{Network: network, Server: []core.Interceptor{
			core.InterceptorFunc(func(ctx context.Context, c *core.Call, next core.Handler) error {
				call.Lock()
				defer call.Unlock()
				call.seen = fmt.Sprint(c.Protocol(), " ", c.HTTPMethod(), " ", c.Peer().Addr, " ", c.Peer().TLS != nil)
				return next(ctx, c)
			}),
		}}
		through := through(o, serve(t, o, nil))
		dial := through.Dial
		addr := ""
		through.Dial = func(ctx context.Context) (net.Conn, error) {
			conn, err := dial(ctx)
			if err == nil {
				addr = conn.LocalAddr().String()
			}
			return conn, err
		}
		rpctest.Run(t, through, func(t *testing.T, c *rpctest.Client) {
			c.Call(t.Context(), "").Want(t, core.CodeOK, "")
			call.Lock()
			defer call.Unlock()
			if want := fmt.Sprint(c.Path.Protocol, " POST ", addr, " ", network == rpctest.TLS); call.seen != want {
				t.Errorf("the interceptor saw %s, want %s", call.seen, want)
			}
		})
	}
}

// readerServer is a grpc server with one method without side effects, Read, and a way to its definition.
func readerServer(t *testing.T, read func(ctx context.Context, name string) (string, error), interceptors ...core.Interceptor) (*grpc.Server, *protoregistry.Files) {
	const value = ".google.protobuf.StringValue"
	options := &descriptorpb.MethodOptions{IdempotencyLevel: descriptorpb.MethodOptions_NO_SIDE_EFFECTS.Enum()}
	const path = "\x12\x0b/not/{ours}" // a google.api.http that vanguard does not understand
	rule := append(protowire.AppendTag(nil, 72295728, protowire.BytesType), byte(len(path)))
	if err := (proto.UnmarshalOptions{Merge: true}).Unmarshal(append(rule, path...), options); err != nil {
		t.Fatal(err)
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: new("weft/test.proto"), Package: new("weft.test"), Syntax: new("proto3"),
		Dependency: []string{"google/protobuf/wrappers.proto"},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: new("Reader"), Method: []*descriptorpb.MethodDescriptorProto{{
			Name: new("Read"), InputType: new(value), OutputType: new(value),
			Options: options,
		}}}},
	}, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	files := &protoregistry.Files{}
	if err := files.RegisterFile(file); err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpcx.ServerOptions(interceptors...)...)
	server.RegisterService(&grpc.ServiceDesc{ServiceName: "weft.test.Reader", Methods: []grpc.MethodDesc{{
		MethodName: "Read",
		Handler: func(_ any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			in := &wrapperspb.StringValue{}
			if err := dec(in); err != nil {
				return nil, err
			}
			return interceptor(ctx, in, &grpc.UnaryServerInfo{FullMethod: "/weft.test.Reader/Read"}, func(ctx context.Context, in any) (any, error) {
				out, err := read(ctx, in.(*wrapperspb.StringValue).GetValue())
				return wrapperspb.String(out), err
			})
		},
	}}}, nil)
	return server, files
}

func TestConnectGet(t *testing.T) {
	var seen string
	server, files := readerServer(t, func(ctx context.Context, name string) (string, error) {
		if name == "missing" {
			return "", errors.NotFound("no ü").WithMetadata("x-a", "1")
		}
		return "content of " + name, grpc.SetTrailer(ctx, map[string][]string{"x-t": {"2"}})
	}, core.InterceptorFunc(func(ctx context.Context, c *core.Call, next core.Handler) error {
		seen = fmt.Sprint(c.HTTPMethod(), " ", c.Protocol())
		return next(ctx, c)
	}))
	defer server.Stop()
	if _, err := web.NewHandler(server, nil); err == nil || !strings.Contains(err.Error(), `"weft.test.Reader"`) {
		t.Errorf("a service without a definition: %v", err)
	}
	handler, err := web.NewHandler(server, &web.Options{Schemas: files})
	if err != nil {
		t.Fatal(err)
	}
	url := listen(t, rpctest.TCP, handler).URL + "/weft.test.Reader/Read"
	for _, codec := range [][]connect.ClientOption{nil, {connect.WithProtoJSON()}} {
		client := connect.NewClient[wrapperspb.StringValue, wrapperspb.StringValue](http.DefaultClient, url,
			connect.WithHTTPGet(), connect.WithSendGzip(), connect.WithIdempotency(connect.IdempotencyNoSideEffects), connect.WithClientOptions(codec...))
		res, err := client.CallUnary(t.Context(), connect.NewRequest(wrapperspb.String("ä & b")))
		if err != nil || res.Msg.GetValue() != "content of ä & b" || res.Trailer().Get("X-T") != "2" || seen != "GET connect" {
			t.Errorf("got %v, %v, seen %q", res, err, seen)
		}
		_, err = client.CallUnary(t.Context(), connect.NewRequest(wrapperspb.String("missing")))
		wire := new(connect.Error)
		if !errors.As(err, &wire) || wire.Code() != connect.CodeNotFound || wire.Message() != "no ü" || wire.Meta().Get("X-A") != "1" {
			t.Errorf("got %v", err)
		}
	}
	// As one would write it by hand. Like connect-go, nobody asks for the type of a body that is not there.
	for _, contentType := range []string{"", "text/plain", "application/json", "application/grpc", "application/connect+json"} {
		req, _ := http.NewRequest(http.MethodGet, url+"?encoding=json&message=%22a%22", nil)
		if contentType != "" {
			req.Header.Set("Content-Type", contentType)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if body, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK || string(body) != `"content of a"` {
			t.Errorf("with type %q: got %s %q", contentType, res.Status, body)
		}
	}
}

func zip(text string) string {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	return out.String()
}

func frame(flags byte, payload string) string {
	return string(binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(payload)))) + payload
}

// input is a request as protobuf.
func input(text string) string {
	data, _ := proto.Marshal(&dummyv1.DummyRequest{Input: text})
	return string(data)
}

// jsonInput is a request as JSON.
func jsonInput(text string) string {
	data, _ := protojson.Marshal(&dummyv1.DummyRequest{Input: text})
	return string(data)
}

// chunked hides how long a body is.
type chunked struct{ io.Reader }

func TestRequestsByHand(t *testing.T) {
	seen := make(chan string, 1)
	server := serve(t, &rpctest.Options{
		Server: []core.Interceptor{core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			err := next(ctx, call)
			seen <- core.CodeOf(err).String()
			return err
		})},
		Cases: map[string]rpctest.Case{
			"hours": func(ctx context.Context, _ *rpctest.Input) (string, error) {
				deadline, _ := ctx.Deadline()
				return time.Until(deadline).Round(time.Hour).String(), nil
			},
			"long": func(_ context.Context, in *rpctest.Input) (string, error) {
				return strings.Repeat("x", 2000), in.AddTrailer("x-done", "yes")
			},
		},
	}, &web.Options{MaxMessageBytes: 1000})
	const (
		unary        = dummyv1connect.DummyServiceExecuteProcedure
		clientStream = dummyv1connect.DummyServiceExecuteClientStreamProcedure
		serverStream = dummyv1connect.DummyServiceExecuteServerStreamProcedure
		asJSON       = "application/json"
		asProto      = "application/proto"
		streamJSON   = "application/connect+json"
		streamProto  = "application/connect+proto"
		webProto     = "application/grpc-web+proto"
		webJSON      = "application/grpc-web+json"
		invalid      = `"code":"invalid_argument"`
		internal     = `"code":"internal"`
		exhausted    = `"code":"resource_exhausted"`
		none         = "does not enter"
	)
	long := strings.Repeat("x", 2000)
	for name, test := range map[string]struct {
		path, contentType, body string
		header                  string // key: value
		status                  int
		want                    string // in the body, or in the header Grpc-Status
		chain                   string // how it ended, none if it was not entered
	}{
		"JSON":                             {unary, asJSON, jsonInput("hi"), "", 200, `{"output":"hi"}`, "ok"},
		"JSON with a character set":        {unary, "Application/JSON;charset=UTF-8", jsonInput("hi"), "", 200, `{"output":"hi"}`, "ok"},
		"JSON with unknown fields":         {unary, asJSON, `{"input":"hi","x":1}`, "", 200, `{"output":"hi"}`, "ok"},
		"JSON of what is not set":          {unary, asJSON, `{}`, "", 200, `{}`, "ok"},
		"compressed JSON":                  {unary, asJSON, zip(jsonInput("hi")), "Content-Encoding: gzip", 200, zip(`{"output":"hi"}`), "ok"},
		"compressed JSON of nothing set":   {unary, asJSON, zip(`{}`), "Content-Encoding: gzip", 200, "", "ok"},
		"gRPC-Web, the same":               {unary, webJSON, frame(1, zip(`{}`)), "Grpc-Encoding: gzip", 200, "grpc-status: 0", "ok"},
		"gRPC-Web, compressed by nothing":  {unary, webProto, frame(1, ""), "", 200, "grpc-status: 13", none},
		"compressed proto":                 {unary, asProto, zip(input("hi")), "Content-Encoding: gzip", 200, "", "ok"},
		"no bytes are a message":           {unary, asProto, "", "", 200, "", "ok"},
		"malformed JSON":                   {unary, asJSON, `{"inp`, "", 400, invalid, none},
		"malformed compression":            {unary, asJSON, "xxxxxxxxxxxxxxxxxxx", "Content-Encoding: gzip", 400, invalid, none},
		"unknown compression":              {unary, asJSON, "{}", "Content-Encoding: zstd", 501, `"code":"unimplemented"`, none},
		"long JSON":                        {unary, asJSON, jsonInput(long), "", 429, exhausted, none},
		"long proto":                       {unary, asProto, input(long), "", 429, exhausted + `,"message":"max buffer size`, none},
		"long when decompressed":           {unary, asJSON, zip(jsonInput(long)), "Content-Encoding: gzip", 429, exhausted, none},
		"a long response":                  {unary, asJSON, jsonInput("long"), "", 429, exhausted, "ok"},
		"another protocol version":         {unary, asJSON, "{}", "Connect-Protocol-Version: 2", 400, invalid, none},
		"a malformed timeout":              {unary, asJSON, "{}", "Connect-Timeout-Ms: 1x", 400, invalid, none},
		"a negative timeout":               {unary, asJSON, "{}", "Connect-Timeout-Ms: -1", 400, invalid, none},
		"a long timeout":                   {unary, asJSON, "{}", "Connect-Timeout-Ms: 12345678901", 400, invalid, none},
		"joined binary values":             {unary, asJSON, jsonInput("metadata"), "X-Echo-Bin: AAE, /w==", 200, "", "ok"},
		"malformed binary values":          {unary, asJSON, jsonInput("metadata"), "X-Echo-Bin: !", 500, internal, none},
		"another type":                     {unary, "text/plain", "{}", "", 415, "", none},
		"no type":                          {unary, "", "{}", "", 415, "", none},
		"an unknown codec":                 {unary, "application/xml", "{}", "", 415, "", none},
		"gRPC-Web as text":                 {unary, "application/grpc-web-text", "{}", "", 415, "", none},
		"a stream's type":                  {unary, streamJSON, "{}", "", 415, "", none},
		"a unary type":                     {serverStream, asJSON, "{}", "", 415, "", none},
		"an unknown method":                {unary + "X", asJSON, "{}", "", 404, "", none},
		"gRPC over HTTP/1.1":               {unary, "application/grpc", "", "", 505, "", none},
		"two messages of a stream":         {clientStream, streamJSON, frame(0, jsonInput("a")) + frame(0, jsonInput("b")), "", 200, `{"output":"ab"}`, "ok"},
		"compressed messages of a stream":  {clientStream, streamJSON, frame(1, zip(jsonInput("a"))) + frame(0, jsonInput("b")), "Connect-Content-Encoding: gzip", 200, frame(1, zip(`{"output":"ab"}`)), "ok"},
		"malformed JSON in a stream":       {clientStream, streamJSON, frame(0, jsonInput("a")) + frame(0, `{"inp`), "", 200, invalid, "internal"},
		"malformed proto in a stream":      {clientStream, streamProto, frame(0, input("a")) + frame(0, "\xff"), "", 200, internal, "internal"},
		"a stream that is cut":             {clientStream, streamJSON, frame(0, jsonInput("a")) + frame(0, jsonInput("b"))[:9], "", 200, internal, "internal"},
		"a stream cut in a prefix":         {clientStream, streamJSON, frame(0, jsonInput("a")) + "\x00", "", 200, internal, "internal"},
		"a stream cut behind a prefix":     {clientStream, streamProto, frame(0, input("a")) + frame(0, input("b"))[:5], "", 200, internal, "internal"},
		"malformed flags in a stream":      {clientStream, streamProto, frame(0, input("a")) + frame(9, input("b")), "", 200, invalid, "internal"},
		"a long message in a stream":       {clientStream, streamJSON, frame(0, jsonInput("a")) + frame(0, jsonInput(long)), "", 200, exhausted, "resource_exhausted"},
		"long when decompressed, a stream": {clientStream, streamJSON, frame(1, zip(jsonInput(long))), "Connect-Content-Encoding: gzip", 200, exhausted, "internal"},
		"a long response in a stream":      {serverStream, streamJSON, frame(0, jsonInput("long")), "", 200, exhausted, "ok"},
		"unknown compression of a stream":  {clientStream, streamJSON, "", "Connect-Content-Encoding: zstd", 200, `"code":"unimplemented"`, none},
		"gRPC-Web":                         {unary, webProto, frame(0, input("hi")), "", 200, frame(0, input("hi")) + frame(0x80, "grpc-message: \r\ngrpc-status: 0\r\n"), "ok"},
		"gRPC-Web without a codec":         {unary, "application/grpc-web", frame(0, input("hi")), "", 200, "grpc-status: 0\r\n", "ok"},
		"gRPC-Web with JSON":               {unary, webJSON, frame(0, jsonInput("hi")), "", 200, frame(0, `{"output":"hi"}`), "ok"},
		"gRPC-Web with no response":        {serverStream, webProto, frame(0, ""), "", 200, frame(0x80, "grpc-message: \r\ngrpc-status: 0\r\n"), "ok"},
		"gRPC-Web that fails":              {serverStream, webProto, frame(0, input("fail-after:1:aborted")), "", 200, frame(0, input("0")) + "\x80", "aborted"},
		"gRPC-Web, compressed":             {unary, webProto, frame(1, zip(input("hi"))), "Grpc-Encoding: gzip", 200, frame(1, zip(input("hi"))), "ok"},
		"gRPC-Web, unknown compression":    {unary, webProto, "", "Grpc-Encoding: zstd", 200, "12", none},
		"gRPC-Web, malformed JSON":         {unary, webJSON, frame(0, `{"inp`), "", 200, "3", none},
		"gRPC-Web, nine hours":             {unary, webProto, frame(0, input("hours")), "Grpc-Timeout: 9H", 200, "9h0m0s", "ok"},
		"gRPC-Web, many hours":             {unary, webProto, frame(0, input("hours")), "Grpc-Timeout: 99999999H", 200, "1666667h0m0s", "ok"},
		"gRPC-Web, malformed timeout":      {unary, webProto, "", "Grpc-Timeout: 9", 200, "3", none},
		"gRPC-Web, timeout without digits": {unary, webProto, "", "Grpc-Timeout: m", 200, "3", none},
		"gRPC-Web, long timeout":           {unary, webProto, "", "Grpc-Timeout: 123456789m", 200, "3", none},
	} {
		for _, form := range []string{"of known length", "chunked"} {
			t.Run(name+"/"+form, func(t *testing.T) {
				var body io.Reader = strings.NewReader(test.body)
				if form == "chunked" {
					body = chunked{body}
				}
				req, _ := http.NewRequest(http.MethodPost, server.URL+test.path, body)
				if test.contentType != "" {
					req.Header.Set("Content-Type", test.contentType)
				}
				if key, value, ok := strings.Cut(test.header, ": "); ok {
					req.Header.Set(key, value)
				}
				req.Header.Set("Accept-Encoding", "identity")
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil {
					t.Fatal(err)
				}
				if res.StatusCode != test.status || !strings.Contains(string(got)+res.Header.Get("Grpc-Status"), test.want) {
					t.Errorf("got %s %v %q, want %d %q", res.Status, res.Header, got, test.status, test.want)
				}
				if len(res.Trailer) > 0 {
					t.Errorf("only gRPC has trailers: %v", res.Trailer)
				}
				ended := none
				if test.chain != none {
					select {
					case ended = <-seen:
					case <-time.After(10 * time.Second):
					}
				}
				select {
				case more := <-seen:
					t.Errorf("the chain was entered: %s", more)
				default:
				}
				if ended != test.chain {
					t.Errorf("the chain ended with %s, want %s", ended, test.chain)
				}
			})
		}
	}
}

// connect-go compresses for whoever takes it, grpc-go for who has compressed the request.
func TestResponsesAreCompressedWhenTheRequestWas(t *testing.T) {
	server := serve(t, &rpctest.Options{}, nil)
	for _, compressed := range []bool{false, true} {
		body := jsonInput(strings.Repeat("x", 10_000))
		if compressed {
			body = zip(body)
		}
		req, _ := http.NewRequest(http.MethodPost, server.URL+dummyv1connect.DummyServiceExecuteProcedure, strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept-Encoding", "gzip")
		if compressed {
			req.Header.Set("Content-Encoding", "gzip")
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got := res.Header.Get("Content-Encoding") == "gzip"; res.StatusCode != http.StatusOK || got != compressed {
			t.Errorf("the request is compressed: %t, the response: %s %v", compressed, res.Status, res.Header)
		}
	}
}

// grpc-go has no codec for JSON, connect-go's clients do.
func TestGRPCWithJSON(t *testing.T) {
	server := serve(t, &rpctest.Options{}, nil)
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	client := dummyv1connect.NewDummyServiceClient(&http.Client{Transport: transport}, server.URL, connect.WithGRPC(), connect.WithProtoJSON())
	req := connect.NewRequest(&dummyv1.DummyRequest{Input: "metadata"})
	req.Header().Set("X-Echo-A", "1")
	res, err := client.Execute(t.Context(), req)
	if err != nil || res.Msg.GetOutput() != "metadata" || res.Header().Get("X-Echo-A") != "1" || res.Trailer().Get("X-Trailer-A") != "1" {
		t.Errorf("%v, %v", res, err)
	}
	if _, err = client.Execute(t.Context(), connect.NewRequest(&dummyv1.DummyRequest{Input: "fail:aborted"})); connect.CodeOf(err) != connect.CodeAborted {
		t.Error(err)
	}
	// Its timeout is that of gRPC.
	for header, want := range map[string]string{"Grpc-Timeout: 9H": "0", "Grpc-Timeout: 99999999H": "0", "Grpc-Timeout: 9": "3", "Connect-Timeout-Ms: x": "0"} {
		req, _ := http.NewRequest(http.MethodPost, server.URL+dummyv1connect.DummyServiceExecuteProcedure, strings.NewReader(frame(0, `{}`)))
		req.Header.Set("Content-Type", "application/grpc+json")
		key, value, _ := strings.Cut(header, ": ")
		req.Header.Set(key, value)
		res, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if got := res.Trailer.Get("Grpc-Status"); res.StatusCode != http.StatusOK || got != want {
			t.Errorf("%s: got %s %q, status %q, want %q", header, res.Status, body, got, want)
		}
	}
}

func TestWhatGRPCWouldReadIsNothingToConnect(t *testing.T) {
	server := serve(t, &rpctest.Options{}, nil)
	for _, header := range []string{"Grpc-Timeout: 1n", "Grpc-Timeout: x", "Grpc-Encoding: gzip", "Grpc-Encoding: zstd"} {
		for contentType, body := range map[string]string{"application/json": jsonInput("hi"), "application/connect+json": frame(0, jsonInput("hi"))} {
			path, want := dummyv1connect.DummyServiceExecuteProcedure, `{"output":"hi"}`
			if body[0] == 0 {
				path, want = dummyv1connect.DummyServiceExecuteClientStreamProcedure, frame(0, want)+frame(2, "{}\n")
			}
			req, _ := http.NewRequest(http.MethodPost, server.URL+path, strings.NewReader(body))
			req.Header.Set("Content-Type", contentType)
			key, value, _ := strings.Cut(header, ": ")
			req.Header.Set(key, value)
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if string(got) != want {
				t.Errorf("%s with %s: got %s %q, want %q", contentType, header, res.Status, got, want)
			}
		}
	}
}

func TestCachesAreToldAllThatVaries(t *testing.T) {
	handler, native := newHandler(t, &rpctest.Options{Cases: map[string]rpctest.Case{"vary": func(ctx context.Context, _ *rpctest.Input) (string, error) {
		return "", grpc.SetHeader(ctx, map[string][]string{"vary": {"x-tenant"}})
	}}}, nil)
	defer native.Stop()
	for contentType, body := range map[string]string{"application/json": jsonInput("vary"), "application/grpc-web": frame(0, input("vary")), "application/grpc": frame(0, input("vary"))} {
		req := httptest.NewRequest(http.MethodPost, dummyv1connect.DummyServiceExecuteProcedure, strings.NewReader(body))
		req.ProtoMajor = 2
		req.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		w.Header().Set("Vary", "Origin") // as package cors does
		handler.ServeHTTP(w, req)
		if got := w.Header().Values("Vary"); !slices.Equal(got, []string{"Origin", "x-tenant"}) {
			t.Errorf("%s: got %q", contentType, got)
		}
	}
}

// Else one MiB of commas would take 150 for as long as the call runs.
func TestBinaryMetadataHasNotManyJoinedValues(t *testing.T) {
	server := serve(t, &rpctest.Options{}, nil)
	for _, test := range []struct {
		commas, keys int
		want         int
	}{{999, 1, http.StatusOK}, {2000, 1, http.StatusTooManyRequests}, {600, 2, http.StatusTooManyRequests}} {
		req, _ := http.NewRequest(http.MethodPost, server.URL+dummyv1connect.DummyServiceExecuteProcedure, strings.NewReader("{}"))
		req.Header.Set("Content-Type", "application/json")
		for i := range test.keys {
			req.Header.Set(fmt.Sprintf("X-%d-Bin", i), strings.Repeat(",", test.commas))
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != test.want {
			t.Errorf("%d times %d commas: %s %s", test.keys, test.commas, res.Status, body)
		}
	}
}

func TestOptions(t *testing.T) {
	long := strings.Repeat("x", 5<<20)
	server := serve(t, &rpctest.Options{ServerOptions: []grpc.ServerOption{grpc.MaxRecvMsgSize(6 << 20)}},
		&web.Options{MaxMessageBytes: 6 << 20, JSON: protojson.MarshalOptions{EmitUnpopulated: true}})
	client := dummyv1connect.NewDummyServiceClient(http.DefaultClient, server.URL)
	res, err := client.Execute(t.Context(), connect.NewRequest(&dummyv1.DummyRequest{Input: long}))
	if err != nil || res.Msg.GetOutput() != long {
		t.Errorf("a message that may be long: %v", err)
	}
	raw, err := http.Post(server.URL+dummyv1connect.DummyServiceExecuteProcedure, "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Body.Close()
	if body, _ := io.ReadAll(raw.Body); string(body) != `{"output":""}` {
		t.Errorf("got %q", body)
	}
}

func TestBadConfigurationIsRefused(t *testing.T) {
	server := grpc.NewServer()
	for _, limit := range []int{-1, 1 << 31} {
		if _, err := web.NewHandler(server, &web.Options{MaxMessageBytes: limit}); err == nil {
			t.Errorf("a limit of %d is taken", limit)
		}
	}
	for name, desc := range map[string]grpc.ServiceDesc{
		"other methods": {ServiceName: "grpc.health.v1.Health", Methods: []grpc.MethodDesc{{MethodName: "Cure"}}},
		"other streams": {ServiceName: "grpc.health.v1.Health", Methods: []grpc.MethodDesc{{MethodName: "Watch"}}},
		"a message":     {ServiceName: "grpc.health.v1.HealthCheckRequest"},
		"nothing":       {ServiceName: "nowhere.Service"},
	} {
		server := grpc.NewServer()
		server.RegisterService(&desc, nil)
		if _, err := web.NewHandler(server, nil); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", desc.ServiceName)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a nil server is taken")
		}
	}()
	_, _ = web.NewHandler(nil, nil)
}

func TestHealthAndReflection(t *testing.T) {
	server := grpc.NewServer(grpcx.ServerOptions()...)
	defer server.Stop()
	healthv1.RegisterHealthServer(server, health.NewServer())
	reflection.Register(server)
	handler, err := web.NewHandler(server, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Post(listen(t, rpctest.TCP, handler).URL+"/grpc.health.v1.Health/Check", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); string(body) != `{"status":"SERVING"}` {
		t.Errorf("got %s %q", res.Status, body)
	}
}

func TestHeaderAndMessagesComeWhenTheyAreSent(t *testing.T) {
	next := make(chan struct{})
	o := &rpctest.Options{Cases: map[string]rpctest.Case{"slowly": func(_ context.Context, in *rpctest.Input) (string, error) {
		for i := range 3 {
			if err := in.Send(fmt.Sprint(i)); err != nil {
				return "", err
			}
			<-next
		}
		return "end", nil
	}}}
	o.Shapes = []core.Shape{core.ShapeServerStream, core.ShapeBidiStream}
	rpctest.Run(t, through(o, serve(t, o, nil)), func(t *testing.T, c *rpctest.Client) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		stream, err := c.Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		if err := stream.Send("slowly"); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if output, err := stream.Receive(); output != fmt.Sprint(i) || err != nil {
				t.Fatalf("got %q, %v", output, err)
			}
			next <- struct{}{}
		}
		stream.Drain().Want(t, core.CodeOK, "end")
	})
}

// headerFirst sends its header, and the rest when it is told to.
type headerFirst struct {
	dummyv1.UnimplementedDummyServiceServer

	goOn chan struct{}
}

func (s headerFirst) ExecuteClientServerStream(stream grpc.BidiStreamingServer[dummyv1.DummyRequest, dummyv1.DummyResponse]) error {
	if err := stream.SendHeader(map[string][]string{"x-early": {"yes"}}); err != nil {
		return err
	}
	<-s.goOn
	return nil
}

func (headerFirst) ExecuteClientStream(stream grpc.ClientStreamingServer[dummyv1.DummyRequest, dummyv1.DummyResponse]) error {
	if err := stream.SendHeader(map[string][]string{"x-early": {"yes"}}); err != nil {
		return err
	}
	joined := ""
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&dummyv1.DummyResponse{Output: joined})
		}
		if err != nil {
			return err
		}
		joined += req.GetInput()
	}
}

func TestAHeaderComesBeforeTheFirstMessage(t *testing.T) {
	service := headerFirst{goOn: make(chan struct{})}
	server := grpc.NewServer(grpcx.ServerOptions()...)
	defer server.Stop()
	dummyv1.RegisterDummyServiceServer(server, service)
	handler, err := web.NewHandler(server, nil)
	if err != nil {
		t.Fatal(err)
	}
	o := &rpctest.Options{Shapes: []core.Shape{core.ShapeBidiStream, core.ShapeClientStream}}
	rpctest.Run(t, through(o, listen(t, rpctest.TCP, handler)), func(t *testing.T, c *rpctest.Client) {
		if c.Shape == core.ShapeClientStream { // net/http must not drop the request over HTTP/1.1
			inputs := slices.Repeat([]string{strings.Repeat("x", 10_000)}, 40)
			res := c.Call(t.Context(), inputs...)
			if res.Err != nil || res.Outputs[0] != strings.Join(inputs, "") || res.Header.Get("x-early") != "yes" {
				t.Errorf("got %d bytes, %v, %v", len(strings.Join(res.Outputs, "")), res.Metadata(), res.Err)
			}
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		stream, err := c.Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send("")
		if got := stream.Header().Get("x-early"); got != "yes" {
			t.Errorf("got %q, %v", got, ctx.Err())
		}
		service.goOn <- struct{}{}
		stream.Drain().Want(t, core.CodeOK, "")
	})
}

// endless is a request without end, that counts how many of its messages were read.
type endless struct {
	message string
	mu      sync.Mutex
	rest    string
	read    int
	closed  bool
}

func (e *endless) Read(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	if e.rest == "" {
		e.rest, e.read = e.message, e.read+1
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

func (e *endless) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	return nil
}

func (e *endless) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.read
}

func TestNoMoreIsReadThanTheHandlerWants(t *testing.T) {
	for contentType, message := range map[string]string{
		"application/grpc":           frame(0, input("x")),
		"application/grpc-web+proto": frame(0, input("x")),
		"application/connect+proto":  frame(0, input("x")),
		"application/connect+json":   frame(0, jsonInput("x")),
	} {
		synctest.Test(t, func(t *testing.T) {
			receive := make(chan struct{})
			handler, native := newHandler(t, &rpctest.Options{Cases: map[string]rpctest.Case{"x": func(ctx context.Context, in *rpctest.Input) (string, error) {
				select {
				case <-receive:
				case <-ctx.Done():
				}
				return "", ctx.Err()
			}}}, nil)
			defer native.Stop()
			// The first stream shows that the server has the interceptors.
			for _, tell := range []bool{false, true} {
				for _, procedure := range []string{dummyv1connect.DummyServiceExecuteClientServerStreamProcedure, dummyv1connect.DummyServiceExecuteClientStreamProcedure} {
					ctx, cancel := context.WithCancel(t.Context())
					body := &endless{message: message}
					req := httptest.NewRequestWithContext(ctx, http.MethodPost, procedure, body)
					req.ProtoMajor = 2
					req.Header.Set("Content-Type", contentType)
					over := make(chan struct{})
					go func() {
						defer close(over)
						handler.ServeHTTP(httptest.NewRecorder(), req)
					}()
					synctest.Wait()
					first := body.count()
					for received := 1; received < 50; received++ {
						synctest.Wait()
						if read := body.count(); read < received || read > received+2 && (tell || read > first) {
							t.Errorf("%s: %d messages were read for a handler that has %d", contentType, read, received)
						}
						receive <- struct{}{}
					}
					cancel()
					<-over
				}
			}
		})
	}
}

// duplex sends more than a client takes that does not read, and tells how many messages it receives meanwhile.
type duplex struct {
	dummyv1.UnimplementedDummyServiceServer

	received chan int
}

func (d duplex) ExecuteClientServerStream(stream grpc.BidiStreamingServer[dummyv1.DummyRequest, dummyv1.DummyResponse]) error {
	sent := make(chan error, 1)
	go func() {
		var err error
		for range 10 {
			err = errors.Join(err, stream.Send(&dummyv1.DummyResponse{Output: strings.Repeat("x", 1<<20)}))
		}
		sent <- err
	}()
	for i := 1; ; i++ {
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return <-sent
		}
		if err != nil {
			return errors.Join(err, <-sent)
		}
		d.received <- i
	}
}

func TestAHandlerReceivesWhileTheClientTakesNothing(t *testing.T) {
	service := duplex{received: make(chan int)}
	server := grpc.NewServer(grpcx.ServerOptions()...)
	defer server.Stop()
	dummyv1.RegisterDummyServiceServer(server, service)
	handler, err := web.NewHandler(server, nil)
	if err != nil {
		t.Fatal(err)
	}
	url := listen(t, rpctest.TCP, handler).URL + dummyv1connect.DummyServiceExecuteClientServerStreamProcedure
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	for contentType, message := range map[string]string{
		"application/grpc":           frame(0, input("x")),
		"application/grpc-web+proto": frame(0, input("x")),
		"application/connect+proto":  frame(0, input("x")),
		"application/connect+json":   frame(0, jsonInput("x")),
	} {
		for _, malformed := range []bool{false, true} {
			t.Run(fmt.Sprint(contentType, " malformed ", malformed), func(t *testing.T) {
				body, requests := io.Pipe()
				defer requests.Close()
				req, _ := http.NewRequest(http.MethodPost, url, body)
				req.Header.Set("Content-Type", contentType)
				over := time.AfterFunc(10*time.Second, transport.CloseIdleConnections)
				defer over.Stop()
				res, err := (&http.Client{Transport: transport}).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				time.Sleep(50 * time.Millisecond) // now it is stuck; sooner would prove less and not fail
				for want := 1; want <= 5; want++ {
					go func() { _, _ = io.WriteString(requests, message) }()
					select {
					case <-service.received:
					case <-time.After(10 * time.Second):
						t.Fatalf("the handler did not receive message %d", want)
					}
				}
				go func() {
					if malformed {
						_, _ = io.WriteString(requests, frame(99, "x"))
					}
					_ = requests.Close()
				}()
				time.Sleep(10 * time.Millisecond) // so that the fault is found while it is stuck
				got, err := io.ReadAll(res.Body)
				if err != nil {
					t.Fatal(err)
				}
				frames, last := 0, ""
				for len(got) >= 5 {
					n := 5 + int(binary.BigEndian.Uint32(got[1:]))
					if len(got) < n {
						t.Fatalf("a frame is cut: %d bytes of %d", len(got), n)
					}
					last, got = string(got[5:n]), got[n:]
					frames++
				}
				if len(res.Trailer) > 0 {
					last = "status: " + res.Trailer.Get("Grpc-Status")
				}
				if ok := last == "{}\n" || strings.Contains(last, "status: 0"); len(got) > 0 || ok == malformed {
					t.Errorf("%d frames, %d bytes more, the last %.200q", frames, len(got), last)
				}
			})
		}
	}
}

// What is wrong in the request is found while the handler writes: with -race.
func TestRequestAndResponseDoNotMeet(t *testing.T) {
	o := &rpctest.Options{Cases: map[string]rpctest.Case{"talk": func(_ context.Context, in *rpctest.Input) (string, error) {
		for range 50 {
			if err := in.Send("x"); err != nil {
				return "", err
			}
			if err := in.AddTrailer("x-t", "x"); err != nil {
				return "", err
			}
		}
		return "", errors.Aborted("enough")
	}}}
	handler, native := newHandler(t, o, nil)
	defer native.Stop()
	for range 50 {
		for _, contentType := range []string{"application/connect+json", "application/grpc-web+json"} {
			req := httptest.NewRequest(http.MethodPost, dummyv1connect.DummyServiceExecuteClientServerStreamProcedure,
				io.MultiReader(strings.NewReader(frame(0, jsonInput("talk"))), strings.NewReader(frame(0, "{"))))
			req.ProtoMajor = 2
			req.Header.Set("Content-Type", contentType)
			handler.ServeHTTP(httptest.NewRecorder(), req)
		}
	}
}

func TestAServerThatStopsIsUnavailable(t *testing.T) {
	entered := make(chan struct{}, 1)
	o := &rpctest.Options{Cases: map[string]rpctest.Case{"wait": func(ctx context.Context, in *rpctest.Input) (string, error) {
		entered <- struct{}{}
		<-ctx.Done()
		return "", ctx.Err()
	}}}
	for _, graceful := range []bool{true, false} {
		for _, path := range paths() {
			for _, shape := range rpctest.Shapes() {
				if !path.Can(shape) {
					continue
				}
				handler, native := newHandler(t, o, nil)
				stop := native.Stop
				if graceful {
					stop = native.GracefulStop
				}
				more := through(o, listen(t, rpctest.TCP, handler))
				servers := rpctest.NewServers(t, more)
				go func() {
					<-entered
					stop()
				}()
				c := servers.Client(path, shape)
				c.Call(t.Context(), "wait").Want(t, core.CodeUnavailable, "")
				stop()
				c.Call(t.Context(), "").Want(t, core.CodeUnavailable, "")
				servers.Close()
			}
		}
	}
}

func TestTheRequestOfMiddlewareStaysAsItIs(t *testing.T) {
	server, files := readerServer(t, func(context.Context, string) (string, error) { return "", nil })
	defer server.Stop()
	handler, err := web.NewHandler(server, &web.Options{Schemas: files})
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequest(http.MethodGet, "/weft.test.Reader/Read?encoding=json&message=%22a%22", nil)
	before := req.Clone(t.Context())
	handler.ServeHTTP(httptest.NewRecorder(), req)
	if req.Method != before.Method || req.URL.String() != before.URL.String() || fmt.Sprint(req.Header) != fmt.Sprint(before.Header) || req.ProtoMajor != before.ProtoMajor {
		t.Errorf("got %v, want %v", req, before)
	}
}

func TestAHandlerThatAbortsEndsTheCall(t *testing.T) {
	o := &rpctest.Options{Cases: map[string]rpctest.Case{"abort": rpctest.Panics(http.ErrAbortHandler)}}
	rpctest.Run(t, through(o, serve(t, o, nil)), func(t *testing.T, c *rpctest.Client) {
		c.Call(t.Context(), "abort").Want(t, core.CodeInternal, "")
	})
}
