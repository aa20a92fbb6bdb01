// Package web lets a native grpc-go server answer browsers, curl and clients of connect-go: it makes an [http.Handler] of
// it that speaks gRPC-Web and the Connect protocol (POST and GET, protobuf and JSON) beside gRPC. The interceptors of the
// server see all of it, each call with the protocol that it came by.
//
//	server := grpc.NewServer(grpcx.ServerOptions(logging, auth)...)
//	greetv1.RegisterGreeterServer(server, greeter)
//	handler, err := web.NewHandler(server, nil)
//
// The translation is done by connectrpc.com/vanguard, whose faults this package makes good. A page of another origin needs package
// cors around the handler, too.
package web

import (
	"cmp"
	"fmt"
	"math"
	"mime"
	"net/http"
	"strings"
	"sync/atomic"

	"connectrpc.com/connect"
	"connectrpc.com/vanguard"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/internal/origin"
)

// DefaultMaxMessageBytes is the limit of a message where [Options] have none: grpc-go's own for requests.
const DefaultMaxMessageBytes = 4 << 20

// Options say more about a handler. The zero value is right for most.
type Options struct {
	// MaxMessageBytes is how long a message may be that has to be held as a whole, as it is on the wire and
	// decompressed, requests and responses alike: all JSON, and all of unary Connect calls. A longer one ends its
	// call with resource_exhausted. 0 means [DefaultMaxMessageBytes]; there is no way to have no limit. That of the
	// server itself, grpc.MaxRecvMsgSize, holds for requests too. For JSON, as much as a client announces is reserved before it
	// comes: this limit is what a call may cost.
	MaxMessageBytes int
	// JSON is how messages are written as JSON, if not as connect-go does: EmitUnpopulated, for example, writes fields
	// that are not set. Unknown fields of requests are ignored, as by connect-go.
	JSON protojson.MarshalOptions
	// Schemas finds the definitions of services, where nil means those of the generated code in this
	// program, protoregistry.GlobalFiles. A *protoregistry.Files is one.
	Schemas Schemas
}

// Schemas finds definitions by their full name.
type Schemas interface {
	FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error)
}

// NewHandler returns a handler for all services that the server has now, to be called by any number of goroutines. Nil
// options are the zero ones. The server must be made with grpcx.ServerOptions, which need not name any interceptor. Native
// interceptors outside of these must not take requests of streams for themselves.
//
// It is an error if a service has no definition among the schemas, or not that of the server, and if the limit is out
// of range. NewHandler panics if the server is nil.
//
// The handler answers 404 where no method is: rules of google.api.http make no REST. Native gRPC and bidirectional streams
// need HTTP/2, which an http.Server does with TLS, or without when its Protocols have UnencryptedHTTP2. That server has the
// connections: options of the grpc server for these (Creds, KeepaliveParams, MaxConcurrentStreams, InTapHandle) have no part
// in it. Shut it down before the grpc server, which cuts these calls even when it stops gracefully: they end as unavailable.
func NewHandler(server *grpc.Server, o *Options) (http.Handler, error) {
	if server == nil {
		panic("web: NewHandler of a nil server")
	}
	if o == nil {
		o = &Options{}
	}
	limit := cmp.Or(o.MaxMessageBytes, DefaultMaxMessageBytes)
	if limit < 0 || limit > math.MaxInt32 {
		return nil, fmt.Errorf("web: MaxMessageBytes is %d, want 0 to %d", limit, math.MaxInt32)
	}
	h := &handler{server: server, limit: int64(limit), methods: map[string]bool{}, errors: connect.NewErrorWriter()}
	native := http.HandlerFunc(h.serveNative)
	var services []*vanguard.Service
	for name, info := range server.GetServiceInfo() {
		schema, err := find(o.Schemas, name, info)
		if err != nil {
			return nil, err
		}
		for _, method := range info.Methods {
			h.methods["/"+name+"/"+method.Name] = true
		}
		services = append(services, vanguard.NewServiceWithSchema(plainService{schema}, native))
	}
	// What the server cannot decompress is decompressed for it.
	var compressions []string
	if encoding.GetCompressor(vanguard.CompressionGzip) != nil {
		compressions = append(compressions, vanguard.CompressionGzip)
	}
	var err error
	h.transcoder, err = vanguard.NewTranscoder(services,
		vanguard.WithDefaultServiceOptions(
			vanguard.WithTargetProtocols(vanguard.ProtocolGRPC),
			vanguard.WithTargetCodecs(vanguard.CodecProto),
			vanguard.WithTargetCompression(compressions...),
			vanguard.WithMaxMessageBufferBytes(uint32(limit)),
		),
		vanguard.WithCodec(func(types vanguard.TypeResolver) vanguard.Codec { return jsonCodec(o.JSON, types) }),
		vanguard.WithCodec(func(types vanguard.TypeResolver) vanguard.Codec { return codec{vanguard.NewProtoCodec(types)} }),
		vanguard.WithCompression(vanguard.CompressionGzip, newCompressor, newDecompressor(int64(limit))),
	)
	if err != nil {
		return nil, fmt.Errorf("web: %w", err)
	}
	return h, nil
}

// find returns the definition of a service of the server.
func find(schemas Schemas, name string, info grpc.ServiceInfo) (protoreflect.ServiceDescriptor, error) {
	if schemas == nil {
		schemas = protoregistry.GlobalFiles
	}
	found, err := schemas.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return nil, fmt.Errorf("web: no definition of service %q; import its generated code, or set Options.Schemas: %w", name, err)
	}
	service, ok := found.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil, fmt.Errorf("web: %q is not defined as a service", name)
	}
	for _, method := range info.Methods {
		defined := service.Methods().ByName(protoreflect.Name(method.Name))
		if defined == nil || defined.IsStreamingClient() != method.IsClientStream || defined.IsStreamingServer() != method.IsServerStream {
			return nil, fmt.Errorf("web: method %q of service %q is not defined, or with other streams", method.Name, name)
		}
	}
	return service, nil
}

// plainService is a service without the rules of google.api.http: vanguard would make REST of them, and refuse those that it
// does not understand.
type plainService struct{ protoreflect.ServiceDescriptor }

// Methods implements [protoreflect.ServiceDescriptor].
func (s plainService) Methods() protoreflect.MethodDescriptors {
	return plainMethods{s.ServiceDescriptor.Methods()}
}

type plainMethods struct{ protoreflect.MethodDescriptors }

// Get implements [protoreflect.MethodDescriptors].
func (m plainMethods) Get(i int) protoreflect.MethodDescriptor {
	return plainMethod{m.MethodDescriptors.Get(i)}
}

type plainMethod struct{ protoreflect.MethodDescriptor }

// Options implements [protoreflect.Descriptor].
func (m plainMethod) Options() protoreflect.ProtoMessage {
	options, _ := m.MethodDescriptor.Options().(*descriptorpb.MethodOptions)
	return &descriptorpb.MethodOptions{IdempotencyLevel: options.GetIdempotencyLevel().Enum()}
}

// handler is what [NewHandler] returns.
type handler struct {
	server     *grpc.Server
	transcoder *vanguard.Transcoder
	methods    map[string]bool // by path
	limit      int64
	errors     *connect.ErrorWriter
	asking     atomic.Bool // see call
}

// ServeHTTP implements [http.Handler].
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	protocol, contentType := classify(r)
	if !h.methods[r.URL.Path] && protocol != core.ProtocolGRPC {
		http.NotFound(w, r)
		return
	}
	if protocol == "" {
		w.Header().Set("Accept-Post", acceptPost)
		http.Error(w, "the content type is none of gRPC, gRPC-Web or Connect", http.StatusUnsupportedMediaType)
		return
	}
	c := h.newCall(w, r, protocol)
	r = r.Clone(origin.NewContext(r.Context(), c)) // what comes after changes headers and URL
	r.Body = &outerBody{ReadCloser: r.Body, call: c}
	if c.transcoded = !native(protocol, contentType); !c.transcoded {
		h.serveNative(&c.out, r) // of gRPC it knows more than vanguard: further codecs, compressions and methods
		return
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if err := prepare(r, protocol); err != nil {
		_ = h.errors.Write(w, r, err)
		return
	}
	if r.ContentLength > h.limit {
		r.ContentLength = -1 // vanguard refuses what is announced as too long without saying why
	}
	h.transcoder.ServeHTTP(&c.out, r)
	c.out.finish()
}

// native reports whether the server can have the request as it is.
func native(protocol core.Protocol, contentType string) bool {
	const json = "json" // grpc-go has no such codec unless somebody registers one
	return protocol == core.ProtocolGRPC && (contentType != "application/grpc+"+json || encoding.GetCodecV2(json) != nil)
}

// serveNative serves gRPC, be it native or made so.
func (h *handler) serveNative(w http.ResponseWriter, r *http.Request) {
	c := origin.FromContext(r.Context()).(*call) //nolint:forcetypeassert // see ServeHTTP
	inner := &innerWriter{call: c, w: w, header: http.Header{}}
	r.Body = &innerBody{ReadCloser: r.Body, call: c, compressed: c.transcoded && r.Header.Get("Grpc-Encoding") != ""}
	h.server.ServeHTTP(inner, r)
	inner.finish()
}

const acceptPost = "application/grpc, application/grpc-web+json, application/grpc-web+proto, " +
	"application/connect+json, application/connect+proto, application/json, application/proto"

// classify tells the protocol of a request, "" if there is none, and its content type as vanguard wants it. What it
// takes for Connect need not be right; vanguard looks again.
func classify(r *http.Request) (protocol core.Protocol, contentType string) {
	contentTypes := r.Header["Content-Type"]
	if len(contentTypes) == 1 {
		contentType = canonical(contentTypes[0])
	}
	is := func(name string) bool { return contentType == name || strings.HasPrefix(contentType, name+"+") }
	switch {
	case len(contentTypes) > 1:
		return "", ""
	case r.Method == http.MethodGet:
		return core.ProtocolConnect, contentType
	case is("application/grpc-web"):
		return core.ProtocolGRPCWeb, contentType
	case is("application/grpc"):
		return core.ProtocolGRPC, contentType
	case strings.HasPrefix(contentType, "application/"):
		return core.ProtocolConnect, contentType
	}
	return "", ""
}

// canonical writes a content type as vanguard wants it: in lower case, with one blank before the character set.
func canonical(contentType string) string {
	base, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return contentType
	}
	if set, ok := params["charset"]; ok {
		params["charset"] = strings.ToLower(set)
	}
	return mime.FormatMediaType(base, params)
}
