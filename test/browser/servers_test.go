package browser

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/cors"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/grpcx/web"
	"github.com/rpcweft/weft/internal/dummy"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
	"github.com/rpcweft/weft/rpctest"
	"github.com/rpcweft/weft/test/browser/bundle"
)

const (
	idKey         = "x-call" // names a call, so that the server's side of it is found again
	headerPrefix  = "x-echo-"
	trailerPrefix = "x-trailer-"

	// getService is a service with one method, which has no side effects and is the Dummy service's Execute.
	getService = "weft.browser.v1.GetService"
	getExecute = "/" + getService + "/Execute"
)

// seen is what a server saw of one call.
type seen struct {
	record         rpctest.Recorder
	reached, ended chan struct{}
	requests       []string // of HTTP: version, method, type of the content or codec of a GET
	two            []string // the values of the key that was sent with two
	protocol       core.Protocol
	method         string // of HTTP, as interceptors see it
}

// site is a server of the Dummy service with a page.
type site struct {
	*httptest.Server

	mu    sync.Mutex
	calls map[string]*seen
}

func (s *site) seen(id string) *seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls[id] == nil {
		s.calls[id] = &seen{reached: make(chan struct{}), ended: make(chan struct{})}
	}
	return s.calls[id]
}

// wait returns a function for the page that waits for something to happen to a call.
func (s *site) wait(what func(*seen) chan struct{}) func(context.Context, string) (bool, error) {
	return func(ctx context.Context, id string) (bool, error) {
		select {
		case <-what(s.seen(id)):
			return true, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// Intercept records the call under its name.
func (s *site) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	seen := s.seen(call.RequestHeader().Get(idKey))
	defer close(seen.ended)
	seen.protocol, seen.method = call.Protocol(), call.HTTPMethod()
	seen.two = call.RequestHeader().Values(headerPrefix + "two")
	_, limited := ctx.Deadline()
	seen.record.Add(rpctest.Event{Name: "server", Side: call.Side(), What: "call", Text: fmt.Sprintf(
		"limited: %t, %q", limited, own(call.RequestHeader()))})
	err := seen.record.Interceptor("server").Intercept(ctx, call, next)
	message := ""
	if coded := core.FindCoded(err, nil); coded != nil {
		message = coded.Message()
	}
	seen.record.Add(rpctest.Event{Name: "server", Side: call.Side(), What: "answer", Text: fmt.Sprintf(
		"%q %q %q", message, own(call.ResponseHeader()), own(call.ResponseTrailer()))})
	return err
}

// own is the metadata that is the test's. A browser makes one value of several.
func own(md *core.Metadata) map[string][]string {
	result := map[string][]string{}
	for key, values := range md.All() {
		if strings.HasPrefix(key, headerPrefix) || strings.HasPrefix(key, trailerPrefix) {
			result[key] = strings.Split(strings.Join(values, ", "), ", ")
		}
	}
	return result
}

// cases are the special inputs that the Dummy service lacks.
func (s *site) cases() dummy.Cases {
	return dummy.Cases{
		"message": dummy.Raises(errors.NotFound("%s", awkward)),
		"block": func(ctx context.Context, in *dummy.Input) (string, error) {
			if in.Streams() {
				if err := in.Send("0"); err != nil {
					return "", err
				}
			}
			close(s.seen(in.RequestMetadata()[idKey][0]).reached)
			<-ctx.Done()
			return "", ctx.Err()
		},
	}
}

// script is that of the page.
func script(t *testing.T) []byte {
	t.Helper()
	packages(t)
	js, err := bundled()
	if err != nil {
		t.Fatal(err)
	}
	return js
}

var bundled = sync.OnceValues(func() ([]byte, error) { return bundle.Script("test/browser/src/clients.ts") })

// serve starts a server. Pages of another origin may call it if they are of the one that is allowed.
func serve(t *testing.T, stack, http11or2, allowed string) *site {
	t.Helper()
	script := script(t)
	s := &site{calls: map[string]*seen{}}
	service := dummy.New(s.cases())
	chain := []core.Interceptor{s, errors.NewInterceptor(nil)}
	rpcs := http.NewServeMux()
	switch stack {
	case "connect-go":
		options := connect.WithInterceptors(connectx.New(chain...))
		rpcs.Handle(dummyv1connect.NewDummyServiceHandler(service.Connect(), options))
		rpcs.Handle(getExecute, connect.NewUnaryHandler(getExecute, service.Connect().Execute, options,
			connect.WithIdempotency(connect.IdempotencyNoSideEffects)))
	case "grpc-go":
		server := grpc.NewServer(grpcx.ServerOptions(chain...)...)
		dummyv1.RegisterDummyServiceServer(server, service.GRPC())
		server.RegisterService(&getServiceDesc, service.GRPC())
		handler, err := web.NewHandler(server, nil)
		if err != nil {
			t.Fatal(err)
		}
		rpcs.Handle("/", handler)
	default:
		t.Fatalf("there is no server %q", stack)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<!doctype html><link rel="icon" href="data:,"><script type="module" src="/clients.js"></script>`)
	})
	mux.HandleFunc("/clients.js", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/javascript")
		_, _ = w.Write(script)
	})
	mux.Handle("/", allow(t, allowed)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id := r.Header.Get(idKey); id != "" {
			seen := s.seen(id)
			s.mu.Lock()
			seen.requests = append(seen.requests, fmt.Sprint(r.Proto, " ", r.Method, " ", r.Header.Get("Content-Type"), r.URL.Query().Get("encoding")))
			s.mu.Unlock()
		}
		rpcs.ServeHTTP(w, r)
	})))
	s.Server = httptest.NewUnstartedServer(mux)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // a browser drops a connection to look at its certificate
	if http11or2 == "HTTP/2.0" {
		s.EnableHTTP2 = true
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

// allow lets pages of another origin call.
func allow(t *testing.T, origin string) func(http.Handler) http.Handler {
	t.Helper()
	o := &cors.Options{RequestHeaders: []string{idKey}}
	if origin != "" {
		o.Origins = []string{origin}
	}
	for key := range sent {
		o.RequestHeaders = append(o.RequestHeaders, headerPrefix+key)
		o.ResponseHeaders = append(o.ResponseHeaders, headerPrefix+key, trailerPrefix+key)
	}
	wrap, err := cors.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return wrap
}

// getServiceDesc is getService for grpc-go.
var getServiceDesc = grpc.ServiceDesc{
	ServiceName: getService,
	HandlerType: (*dummyv1.DummyServiceServer)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Execute",
		Handler: func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			req := &dummyv1.DummyRequest{}
			if err := decode(req); err != nil {
				return nil, err
			}
			return interceptor(ctx, req, &grpc.UnaryServerInfo{Server: srv, FullMethod: getExecute}, func(ctx context.Context, req any) (any, error) {
				return srv.(dummyv1.DummyServiceServer).Execute(ctx, req.(*dummyv1.DummyRequest))
			})
		},
	}},
}

// The registry is where whoever translates for grpc-go learns that the method has no side effects.
func init() { //nolint:gochecknoinits // as generated code does it
	messages := dummyv1.File_weft_dummy_v1_dummy_proto
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: new("weft/browser/v1/get.proto"), Package: new("weft.browser.v1"), Syntax: new("proto3"),
		Dependency: []string{messages.Path()},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: new("GetService"), Method: []*descriptorpb.MethodDescriptorProto{{
			Name:       new("Execute"),
			InputType:  new(".weft.dummy.v1.DummyRequest"),
			OutputType: new(".weft.dummy.v1.DummyResponse"),
			Options:    &descriptorpb.MethodOptions{IdempotencyLevel: descriptorpb.MethodOptions_NO_SIDE_EFFECTS.Enum()},
		}}}},
	}, protoregistry.GlobalFiles)
	if err == nil {
		err = protoregistry.GlobalFiles.RegisterFile(file)
	}
	if err != nil {
		panic(err)
	}
}
