package parity

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/rpctest"
)

// The tests of this file write HTTP/2 frames that no decent peer would write. Each runs in a bubble
// of its own: what hangs is found at once, for its time does not pass, and what leaks fails the test.

// frames is one end of a connection in the hands of a test. Settings and pings it answers by itself.
type frames struct {
	net.Conn
	framer *http2.Framer

	mu     sync.Mutex // of what is written
	block  bytes.Buffer
	hpack  *hpack.Encoder
	failed error
}

func newFrames(conn net.Conn) *frames {
	f := &frames{Conn: conn, framer: http2.NewFramer(conn, conn)}
	f.framer.AllowIllegalWrites = true
	f.hpack = hpack.NewEncoder(&f.block)
	f.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	return f
}

// read hands each frame to on, until the connection ends.
func (f *frames) read(on func(http2.Frame)) {
	for {
		frame, err := f.framer.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				f.write(f.framer.WriteSettingsAck)
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				f.write(func() error { return f.framer.WritePing(true, frame.Data) })
			}
		}
		on(frame)
	}
}

func (f *frames) write(frame func() error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := frame(); f.failed == nil {
		f.failed = err
	}
}

// headers writes a whole block of pairs of name and value.
func (f *frames) headers(id uint32, end bool, pairs ...string) {
	f.write(func() error {
		f.block.Reset()
		for i := 0; i < len(pairs); i += 2 {
			if err := f.hpack.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}); err != nil {
				return err
			}
		}
		return f.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.block.Bytes(), EndStream: end, EndHeaders: true})
	})
}

func (f *frames) data(id uint32, end bool, data []byte) {
	f.write(func() error { return f.framer.WriteData(id, end, data) })
}

func (f *frames) reset(id uint32, code http2.ErrCode) {
	f.write(func() error { return f.framer.WriteRSTStream(id, code) })
}

func (f *frames) goAway(last uint32, code http2.ErrCode) {
	f.write(func() error { return f.framer.WriteGoAway(last, code, nil) })
}

// enveloped reports whether messages of the protocol have a prefix.
func enveloped(protocol core.Protocol, shape core.Shape) bool {
	return protocol != core.ProtocolConnect || shape != core.ShapeUnary
}

// onWire is a message as the protocol sends it.
func onWire(protocol core.Protocol, shape core.Shape, msg proto.Message) []byte {
	data, err := proto.Marshal(msg)
	if err != nil {
		panic(err)
	}
	if !enveloped(protocol, shape) {
		return data
	}
	return envelope(0, data)
}

func envelope(flags byte, data []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(data))), data...)
}

func contentType(protocol core.Protocol, shape core.Shape) string {
	switch {
	case protocol == core.ProtocolGRPC:
		return "application/grpc+proto"
	case protocol == core.ProtocolGRPCWeb:
		return "application/grpc-web+proto"
	case shape == core.ShapeUnary:
		return "application/proto"
	}
	return "application/connect+proto"
}

var methodOf = map[core.Shape]string{
	core.ShapeUnary:        "/weft.dummy.v1.DummyService/Execute",
	core.ShapeClientStream: "/weft.dummy.v1.DummyService/ExecuteClientStream",
	core.ShapeServerStream: "/weft.dummy.v1.DummyService/ExecuteServerStream",
	core.ShapeBidiStream:   "/weft.dummy.v1.DummyService/ExecuteClientServerStream",
}

// watch is a chain that counts and records what goes through it.
type watch struct {
	rpctest.Recorder

	entered, left atomic.Int32
	mu            sync.Mutex
	errs          []error // of each next, in order
}

func (w *watch) chain() []core.Interceptor {
	count := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) (err error) {
		w.entered.Add(1)
		defer func() {
			w.left.Add(1)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.errs = append(w.errs, err)
		}()
		return next(ctx, call)
	})
	return []core.Interceptor{errors.NewInterceptor(nil), w.Interceptor("outer"), count, w.Interceptor("inner")}
}

// sum is what interceptors saw of a number of calls in one shape.
type sum struct {
	calls               int32
	requests, responses []string
	code                core.Code
	repeated            bool // the one request any number of times
}

// check demands that what was seen of one call is all there will be: that it is over, too.
func (w *watch) check(t *testing.T, side core.Side, shape core.Shape, want sum) {
	t.Helper()
	if entered, left := w.entered.Load(), w.left.Load(); entered != want.calls || left != want.calls {
		t.Errorf("next was entered %d times and left %d times, want %d", entered, left, want.calls)
		return
	}
	got := order(w.Events(side))
	if want.calls == 0 {
		if len(got) > 0 {
			t.Errorf("the interceptors of the %s saw\n\t%s\nwant nothing", side, strings.Join(got, "\n\t"))
		}
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if code := core.CodeOf(w.errs[0]); code != want.code {
		t.Errorf("next returned %v, want %s", w.errs[0], want.code)
		return
	}
	var events []rpctest.Event
	see := func(what string, names ...string) func(string) {
		return func(text string) {
			for _, name := range names {
				events = append(events, rpctest.Event{Name: name, Side: side, What: what, Text: text})
			}
		}
	}
	see("enter", "outer", "inner")(fmt.Sprintf("%s %s", shape, methodOf[shape]))
	if want.repeated {
		text := strconv.Quote(want.requests[0])
		got = slices.DeleteFunc(got, func(line string) bool { return strings.HasSuffix(line, ": request "+text) })
		want.requests = nil
	}
	for _, request := range want.requests {
		see("request", "outer", "inner")(strconv.Quote(request))
	}
	for _, response := range want.responses {
		see("response", "inner", "outer")(strconv.Quote(response))
	}
	see("end", "inner", "outer")(want.code.String())
	if expected := order(events); !slices.Equal(got, expected) {
		t.Errorf("the interceptors of the %s saw\n\t%s\nwant\n\t%s", side, strings.Join(got, "\n\t"), strings.Join(expected, "\n\t"))
	}
}

// rawClient writes requests.
type rawClient struct {
	*frames
	protocol core.Protocol

	mu      sync.Mutex
	replies map[uint32]*reply
}

// reply is what came back on a stream.
type reply struct {
	fields map[string]string // header and trailer
	body   []byte
	reset  http2.ErrCode
	ended  bool
}

func newRawClient(t *testing.T, s *rpctest.Servers, path rpctest.Path) *rawClient {
	t.Helper()
	conn, err := s.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	c := &rawClient{frames: newFrames(conn), protocol: path.Protocol, replies: map[uint32]*reply{}}
	t.Cleanup(func() { _ = conn.Close() })
	c.write(func() error {
		if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
			return err
		}
		return c.framer.WriteSettings()
	})
	go c.read(c.keep)
	return c
}

func (c *rawClient) keep(frame http2.Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := frame.Header().StreamID
	r := c.replies[id]
	if r == nil {
		r = &reply{fields: map[string]string{}}
		c.replies[id] = r
	}
	switch frame := frame.(type) {
	case *http2.MetaHeadersFrame:
		for _, field := range frame.Fields {
			r.fields[field.Name] = field.Value
		}
		r.ended = r.ended || frame.StreamEnded()
	case *http2.DataFrame:
		r.body = append(r.body, frame.Data()...)
		r.ended = r.ended || frame.StreamEnded()
	case *http2.RSTStreamFrame:
		if !r.ended { // else it is about what we still sent
			r.reset, r.ended = frame.ErrCode, true
		}
	}
}

// open writes the header of a request, with more pairs of name and value.
func (c *rawClient) open(id uint32, shape core.Shape, more ...string) {
	c.openMethod(id, methodOf[shape], contentType(c.protocol, shape), more...)
}

func (c *rawClient) openMethod(id uint32, method, contentType string, more ...string) {
	pairs := []string{
		":method", "POST", ":scheme", "http", ":authority", "example.com", ":path", method, "content-type", contentType,
	}
	switch c.protocol {
	case core.ProtocolGRPC:
		pairs = append(pairs, "te", "trailers")
	case core.ProtocolConnect:
		pairs = append(pairs, "connect-protocol-version", "1")
	case core.ProtocolGRPCWeb:
	}
	c.headers(id, false, append(pairs, more...)...)
}

func (c *rawClient) message(shape core.Shape, input string) []byte {
	return onWire(c.protocol, shape, &dummyv1.DummyRequest{Input: input})
}

// result reads the reply on a stream: the outputs, and the code or how else it ended.
func (c *rawClient) result(t *testing.T, id uint32, shape core.Shape) (outputs []string, end string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.replies[id]
	switch {
	case r == nil:
		return nil, "nothing"
	case !r.ended:
		end = "open"
	case r.reset != 0:
		end = r.reset.String()
	}
	output := func(data []byte) {
		msg := &dummyv1.DummyResponse{}
		if err := proto.Unmarshal(data, msg); err != nil {
			t.Error(err)
		}
		outputs = append(outputs, msg.GetOutput())
	}
	jsonCode := func(data []byte) string {
		var failure struct {
			Code string `json:"code"`
		}
		if err := json.Unmarshal(data, &failure); err != nil {
			t.Error(err)
		}
		return failure.Code
	}
	fields := r.fields
	if !enveloped(c.protocol, shape) {
		if fields[":status"] == "200" {
			output(r.body)
			return outputs, cmp.Or(end, "ok")
		}
		return nil, cmp.Or(end, jsonCode(r.body))
	}
	for body := r.body; len(body) >= 5; {
		flags, size := body[0], binary.BigEndian.Uint32(body[1:5])
		if int(size) > len(body)-5 {
			break
		}
		data := body[5 : 5+size]
		body = body[5+size:]
		if flags&1 != 0 {
			unzip, err := gzip.NewReader(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			if data, err = io.ReadAll(unzip); err != nil {
				t.Fatal(err)
			}
		}
		switch flags &^ 1 {
		case 0:
			output(data)
		case 0x80: // gRPC-Web
			for line := range strings.Lines(string(data)) {
				key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
				fields[strings.ToLower(key)] = strings.TrimSpace(value)
			}
		case 2: // Connect
			var last struct {
				Error json.RawMessage `json:"error"`
			}
			if err := json.Unmarshal(data, &last); err != nil {
				t.Error(err)
			}
			if end == "" && last.Error == nil {
				end = "ok"
			} else if end == "" {
				end = jsonCode(last.Error)
			}
		}
	}
	if number, err := strconv.Atoi(fields["grpc-status"]); err == nil && end == "" {
		end = core.Code(number).String()
	}
	return outputs, cmp.Or(end, "no status")
}

var rawServerPaths = []rpctest.Path{
	{Server: rpctest.Connect, Protocol: core.ProtocolConnect, HTTP: 2},
	{Server: rpctest.Connect, Protocol: core.ProtocolGRPCWeb, HTTP: 2},
	{Server: rpctest.Connect, Protocol: core.ProtocolGRPC, HTTP: 2},
	{Server: rpctest.GRPC, Protocol: core.ProtocolGRPC, HTTP: 2},
}

// eachBubble runs test in a bubble for each path and shape.
func eachBubble(t *testing.T, paths []rpctest.Path, shapes []core.Shape, test func(t *testing.T, path rpctest.Path, shape core.Shape)) {
	t.Helper()
	for _, path := range paths {
		for _, shape := range shapes {
			t.Run(fmt.Sprintf("%s%s-%s-%s", path.Client, path.Server, path.Protocol, shape), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { test(t, path, shape) })
			})
		}
	}
}

func TestFramesOfARequestThatIsCutShort(t *testing.T) {
	const id = 1
	cuts := []struct {
		name string
		code core.Code
		cut  func(c *rawClient)
	}{
		{"reset", core.CodeCanceled, func(c *rawClient) { c.reset(id, http2.ErrCodeCancel) }},
		{"reset with another code", core.CodeCanceled, func(c *rawClient) { c.reset(id, http2.ErrCodeInternal) }},
		{"reset without an error", core.CodeCanceled, func(c *rawClient) { c.reset(id, http2.ErrCodeNo) }},
		{"connection closed", core.CodeCanceled, func(c *rawClient) { _ = c.Close() }},
		{"GOAWAY and connection closed", core.CodeCanceled, func(c *rawClient) {
			c.goAway(0, http2.ErrCodeNo)
			_ = c.Close()
		}},
		{"frame that breaks the protocol", core.CodeCanceled, func(c *rawClient) {
			c.data(0, false, nil)
			time.Sleep(2 * time.Second) // net/http says GOAWAY, and closes the connection a second later
		}},
		{"end of the requests", core.CodeInternal, func(c *rawClient) { c.data(id, true, nil) }},
	}
	for _, cut := range cuts {
		for _, part := range []string{"a message", "a prefix", "nothing"} {
			if part == "nothing" && cut.code == core.CodeInternal {
				continue // that is how a good request ends
			}
			t.Run(cut.name+" after a part of "+part, func(t *testing.T) {
				eachBubble(t, rawServerPaths, rpctest.Shapes(), func(t *testing.T, path rpctest.Path, shape core.Shape) {
					w := &watch{}
					c := newRawClient(t, rpctest.NewServers(t, &rpctest.Options{Server: w.chain()}), path)
					c.open(id, shape)
					want := sum{calls: 1, code: cut.code}
					if shape.ClientStreams() {
						c.data(id, false, c.message(shape, "a"))
						want.requests = []string{"a"}
					}
					if shape == core.ShapeBidiStream {
						want.responses = []string{"a"}
					}
					next := c.message(shape, "not all of it")
					switch part {
					case "a message":
						c.data(id, false, next[:len(next)-3])
					case "a prefix":
						c.data(id, false, next[:3])
					}
					synctest.Wait()
					if shape == core.ShapeUnary {
						want = sum{} // both stacks decode first: see TestDifferences
					} else {
						w.underWay(t)
					}
					cut.cut(c)
					synctest.Wait()
					w.check(t, core.SideServer, shape, want)
					if cut.code != core.CodeInternal {
						return
					}
					code := "internal"
					if !enveloped(path.Protocol, shape) {
						code = "invalid_argument" // it has no prefix that says how long it should be
					}
					if outputs, end := c.result(t, id, shape); !slices.Equal(outputs, want.responses) || end != code {
						t.Errorf("the client got %q, %s, want %q, %s", outputs, end, want.responses, code)
					}
				})
			})
		}
	}
}

// underWay demands that one call has begun and is not over.
func (w *watch) underWay(t *testing.T) {
	t.Helper()
	if entered, left := w.entered.Load(), w.left.Load(); entered != 1 || left != 0 {
		t.Errorf("next was entered %d times and left %d times, want a call under way", entered, left)
	}
}

// A server that sends more than the client takes stops in the middle of a message, and hears of the end there.
func TestFramesOfAResponseThatIsCutShort(t *testing.T) {
	const id = 1
	cuts := map[string]func(c *rawClient){
		"reset": func(c *rawClient) { c.reset(id, http2.ErrCodeCancel) },
		// grpc-go may say Unavailable, "transport is closing", of a Send, where every Receive and connect-go say Canceled.
		"Difference: connection closed": func(c *rawClient) { _ = c.Close() },
	}
	for name, cut := range cuts {
		t.Run(name, func(t *testing.T) {
			eachBubble(t, rawServerPaths, streaming, func(t *testing.T, path rpctest.Path, shape core.Shape) {
				w := &watch{}
				big := strings.Repeat("x", 40<<10) // the client takes 64 KiB
				s := rpctest.NewServers(t, &rpctest.Options{Server: w.chain(), Cases: map[string]rpctest.Case{
					"flood": func(_ context.Context, in *rpctest.Input) (string, error) {
						for {
							if err := in.Send(big); err != nil {
								return "", err
							}
						}
					},
				}})
				c := newRawClient(t, s, path)
				c.open(id, shape)
				c.data(id, shape == core.ShapeServerStream, c.message(shape, "flood"))
				synctest.Wait()
				w.underWay(t)
				cut(c)
				synctest.Wait()
				if entered, left := w.entered.Load(), w.left.Load(); entered != 1 || left != 1 {
					t.Fatalf("next was entered %d times and left %d times", entered, left)
				}
				code := core.CodeOf(w.errs[0])
				if path.Server == rpctest.GRPC && name != "reset" && code == core.CodeUnavailable {
					code = core.CodeCanceled
				}
				if code != core.CodeCanceled {
					t.Errorf("next returned %v, want canceled", w.errs[0])
				}
				if outputs, end := c.result(t, id, shape); len(outputs) != 1 || end != "open" && end != "CANCEL" {
					t.Errorf("the client got %d messages, %s", len(outputs), end)
				}
			})
		})
	}
}

// A client's GOAWAY ends no call: the client only says that it wants no pushes.
func TestFramesOfAGoAwayOfAClientDoNotEndItsCalls(t *testing.T) {
	const id = 1
	eachBubble(t, rawServerPaths, []core.Shape{core.ShapeClientStream, core.ShapeBidiStream}, func(t *testing.T, path rpctest.Path, shape core.Shape) {
		w := &watch{}
		c := newRawClient(t, rpctest.NewServers(t, &rpctest.Options{Server: w.chain()}), path)
		c.open(id, shape)
		c.data(id, false, c.message(shape, "a"))
		synctest.Wait()
		c.goAway(0, http2.ErrCodeNo)
		synctest.Wait()
		w.underWay(t)
		c.data(id, true, c.message(shape, "b"))
		synctest.Wait()
		want := sum{calls: 1, requests: []string{"a", "b"}, responses: []string{"a", "b"}}
		if shape == core.ShapeClientStream {
			want.responses = []string{"ab"}
		}
		w.check(t, core.SideServer, shape, want)
		if outputs, end := c.result(t, id, shape); !slices.Equal(outputs, want.responses) || end != "ok" {
			t.Errorf("the client got %q, %s", outputs, end)
		}
	})
}

// The attack of CVE-2023-44487, in a number that no server refuses.
func TestFramesOfRapidResets(t *testing.T) {
	const resets = 400
	eachBubble(t, rawServerPaths, rpctest.Shapes(), func(t *testing.T, path rpctest.Path, shape core.Shape) {
		w := &watch{}
		s := rpctest.NewServers(t, &rpctest.Options{Server: w.chain()})
		c := newRawClient(t, s, path)
		id := uint32(1)
		for i := range resets {
			c.open(id, shape)
			switch msg := c.message(shape, "sleep:1h"); i % 4 {
			case 0:
				c.data(id, false, msg[:len(msg)/2])
			case 1:
				c.data(id, true, msg)
			case 2:
				c.data(id, false, msg)
			}
			c.reset(id, http2.ErrCodeCancel)
			id += 2
		}
		synctest.Wait()
		w.over(t)
		before := w.entered.Load()

		c.open(id, shape)
		c.data(id, true, c.message(shape, "x"))
		synctest.Wait()
		if outputs, end := c.result(t, id, shape); !slices.Equal(outputs, []string{"x"}) || end != "ok" {
			t.Errorf("after the resets the connection gives %q, %s; %v", outputs, end, c.failed)
		}
		path.Client = path.Server
		if path.Protocol != core.ProtocolGRPC {
			path.Client = rpctest.Connect
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if res := s.Client(path, shape).Call(ctx, "y"); res.Err != nil || !slices.Equal(res.Outputs, []string{"y"}) {
			t.Errorf("after the resets another connection gives %s", res)
		}
		w.over(t)
		if calls := w.entered.Load() - before; calls != 2 {
			t.Errorf("%d calls entered after the resets, want 2", calls)
		}
		for _, event := range w.Events(core.SideServer) {
			if event.What == "request" && event.Text != `"sleep:1h"` && event.Text != `"x"` && event.Text != `"y"` {
				t.Errorf("a hook saw %s", event)
			}
		}
	})
}

// over demands that all calls that have entered are over, once.
func (w *watch) over(t *testing.T) {
	t.Helper()
	if entered, left := w.entered.Load(), w.left.Load(); entered != left {
		t.Errorf("next was entered %d times and left %d times", entered, left)
	}
	if err := w.Wait(0); err != nil {
		t.Error(err)
	}
}

// fakeServer is a server that plays a script for each request.
type fakeServer struct {
	*bufconn.Listener

	play    func(r *fakeRequest)
	early   bool // plays at the first message, not at the end of the requests
	refuse  int  // so many requests it refuses first
	serving sync.WaitGroup
	count   atomic.Int32 // requests that it has seen
}

// fakeRequest is a request in the hands of a script.
type fakeRequest struct {
	*frames
	id          uint32
	contentType string
	protocol    core.Protocol
	shape       core.Shape
	played      bool
}

func newFakeServer(t *testing.T, path rpctest.Path, shape core.Shape, f *fakeServer) *fakeServer {
	t.Helper()
	f.Listener = bufconn.Listen(1 << 20)
	f.serving.Go(func() {
		for {
			conn, err := f.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() })
			f.serving.Go(func() { f.serve(newFrames(conn), path.Protocol, shape) })
		}
	})
	return f
}

func (f *fakeServer) serve(conn *frames, protocol core.Protocol, shape core.Shape) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil {
		return
	}
	conn.write(func() error { return conn.framer.WriteSettings() })
	requests := map[uint32]*fakeRequest{}
	conn.read(func(frame http2.Frame) {
		var ended bool
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			r := &fakeRequest{frames: conn, id: frame.StreamID, protocol: protocol, shape: shape}
			for _, field := range frame.RegularFields() {
				if field.Name == "content-type" {
					r.contentType = field.Value
				}
			}
			requests[r.id] = r
			if int(f.count.Add(1)) <= f.refuse {
				r.played = true
				r.reset(r.id, http2.ErrCodeRefusedStream)
			}
			ended = frame.StreamEnded()
		case *http2.DataFrame:
			ended = frame.StreamEnded() || f.early
			if size := uint32(len(frame.Data())); size > 0 { // the connection goes on, the stream runs out
				conn.write(func() error { return conn.framer.WriteWindowUpdate(0, size) })
			}
		default:
			return
		}
		if r := requests[frame.Header().StreamID]; r != nil && ended && !r.played {
			r.played = true
			f.play(r)
		}
	})
}

// header begins the response, with more pairs of name and value.
func (r *fakeRequest) header(more ...string) {
	r.headers(r.id, false, append([]string{":status", "200", "content-type", r.contentType}, more...)...)
}

func (r *fakeRequest) message(output string) []byte {
	return onWire(r.protocol, r.shape, &dummyv1.DummyResponse{Output: output})
}

// answer writes a response to its end.
func (r *fakeRequest) answer(code core.Code, outputs ...string) {
	var body []byte
	for _, output := range outputs {
		body = append(body, r.message(output)...)
	}
	failure := fmt.Sprintf(`{"code":"%s"}`, code)
	switch {
	case !enveloped(r.protocol, r.shape) && code != core.CodeOK:
		r.headers(r.id, false, ":status", "500", "content-type", "application/json")
		r.data(r.id, true, []byte(failure))
	case !enveloped(r.protocol, r.shape):
		r.header()
		r.data(r.id, true, body)
	case r.protocol == core.ProtocolConnect:
		last := "{}"
		if code != core.CodeOK {
			last = fmt.Sprintf(`{"error":%s}`, failure)
		}
		r.header()
		r.data(r.id, true, append(body, envelope(2, []byte(last))...))
	case r.protocol == core.ProtocolGRPCWeb:
		r.header()
		r.data(r.id, true, append(body, envelope(0x80, fmt.Appendf(nil, "grpc-status: %d\r\n", code))...))
	default:
		r.header()
		r.data(r.id, false, body)
		r.headers(r.id, true, "grpc-status", strconv.Itoa(int(code)))
	}
}

// part writes a whole message, if there may be more of them, and the first part of another one. It returns when
// the client has read that.
func (r *fakeRequest) part() {
	r.header("x-header", "1")
	if r.shape.ServerStreams() {
		r.data(r.id, false, r.message("whole"))
	}
	next := r.message("not all of it")
	r.data(r.id, false, next[:len(next)-3])
	time.Sleep(time.Millisecond)
}

var rawClientPaths = []rpctest.Path{
	{Client: rpctest.Connect, Protocol: core.ProtocolConnect, Codec: "proto", HTTP: 2},
	{Client: rpctest.Connect, Protocol: core.ProtocolGRPCWeb, Codec: "proto", HTTP: 2},
	{Client: rpctest.Connect, Protocol: core.ProtocolGRPC, Codec: "proto", HTTP: 2},
	{Client: rpctest.GRPC, Protocol: core.ProtocolGRPC, Codec: "proto", HTTP: 2},
}

// ending is how a fake server ends its response, and the code that it is for the client.
type ending struct {
	name string
	play func(r *fakeRequest)
	code core.Code
	// grpc is the code on grpc-go, bare that of the Connect protocol's unary calls, where they differ.
	grpc, bare core.Code
	// none says that no message is whole.
	none bool
}

func endings() []ending {
	var all []ending
	resets := []struct {
		code http2.ErrCode
		want ending
	}{
		{http2.ErrCodeNo, ending{code: core.CodeInternal}},
		{http2.ErrCodeInternal, ending{code: core.CodeInternal}},
		{http2.ErrCodeCancel, ending{code: core.CodeCanceled}},
		{http2.ErrCodeRefusedStream, ending{code: core.CodeUnavailable}},
		{http2.ErrCodeEnhanceYourCalm, ending{code: core.CodeResourceExhausted}},
		{http2.ErrCodeInadequateSecurity, ending{code: core.CodePermissionDenied}},
		{http2.ErrCodeStreamClosed, ending{code: core.CodeUnknown, grpc: core.CodeInternal}},
	}
	for _, reset := range resets {
		end := reset.want
		end.name = "reset with " + reset.code.String()
		end.play = func(r *fakeRequest) { r.part(); r.reset(r.id, reset.code) }
		all = append(all, end)
	}
	return append(all,
		ending{
			name: "reset before the header", code: core.CodeInternal, none: true,
			play: func(r *fakeRequest) { r.reset(r.id, http2.ErrCodeInternal) },
		},
		ending{
			name: "connection closed before the header", code: core.CodeUnavailable, none: true,
			play: func(r *fakeRequest) { _ = r.Close() },
		},
		ending{
			name: "connection closed in a message", code: core.CodeUnknown, grpc: core.CodeUnavailable,
			play: func(r *fakeRequest) { r.part(); _ = r.Close() },
		},
		ending{
			name: "GOAWAY and connection closed in a message", code: core.CodeUnknown, grpc: core.CodeUnavailable,
			play: func(r *fakeRequest) { r.part(); r.goAway(r.id, http2.ErrCodeNo); _ = r.Close() },
		},
		ending{
			name: "GOAWAY for the call itself in a message", code: core.CodeUnknown, grpc: core.CodeUnavailable,
			play: func(r *fakeRequest) { r.part(); r.goAway(0, http2.ErrCodeNo); _ = r.Close() },
		},
		ending{
			name: "frame that breaks the protocol in a message", code: core.CodeUnknown, grpc: core.CodeUnavailable,
			play: func(r *fakeRequest) { r.part(); r.data(0, false, nil) },
		},
		ending{
			name: "end in a message", code: core.CodeInternal, bare: core.CodeInvalidArgument, // which has no prefix
			play: func(r *fakeRequest) {
				r.part()
				r.data(r.id, true, nil)
				r.reset(r.id, http2.ErrCodeNo) // as servers do, for a client may go on sending else
			},
		},
		ending{
			name: "answer that is not of RPC", code: core.CodeUnavailable, none: true,
			play: func(r *fakeRequest) {
				r.headers(r.id, false, ":status", "503", "content-type", "text/html")
				r.data(r.id, true, []byte("<p>later"))
			},
		},
	)
}

func (e *ending) title() string {
	if e.grpc != 0 || e.bare != 0 {
		return "Difference: " + e.name
	}
	return e.name
}

func (e *ending) want(path rpctest.Path, shape core.Shape) core.Code {
	switch {
	case e.grpc != 0 && path.Client == rpctest.GRPC:
		return e.grpc
	case e.bare != 0 && !enveloped(path.Protocol, shape):
		return e.bare
	}
	return e.code
}

// wantNative demands an error of the stack's own, with the code, in which Weft's is found.
func wantNative(t *testing.T, path rpctest.Path, err error, code core.Code) {
	t.Helper()
	native := core.CodeOK
	if path.Client == rpctest.GRPC {
		if st, ok := status.FromError(err); ok {
			native = core.Code(st.Code())
		}
	} else if own, ok := err.(*connect.Error); ok { //nolint:errorlint // it is the error itself
		native = core.Code(own.Code())
	}
	weft, ok := errors.AsType[*errors.Error](err)
	if !ok {
		t.Errorf("the application got %T %v, in which there is none of Weft's; want %s", err, err, code)
		return
	}
	if native != code || weft.Code() != code || core.CodeOf(err) != code {
		t.Errorf("the application got %T %v, in which Weft's is %v; want %s", err, err, weft, code)
	}
}

// serveFake returns a client of a fake server. Both are gone when the test ends.
func serveFake(t *testing.T, path rpctest.Path, shape core.Shape, w *watch, f *fakeServer) *rpctest.Client {
	t.Helper()
	newFakeServer(t, path, shape, f)
	t.Cleanup(func() { _ = f.Close() })
	return rpctest.NewServers(t, &rpctest.Options{Client: w.chain(), Dial: f.DialContext}).Client(path, shape)
}

// soon is long enough for net/http's own attempts, which take a minute: a hang has another code.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	t.Cleanup(cancel)
	return ctx
}

func TestFramesOfAServerThatBreaksOff(t *testing.T) {
	for _, end := range endings() {
		t.Run(end.title(), func(t *testing.T) {
			eachBubble(t, rawClientPaths, rpctest.Shapes(), func(t *testing.T, path rpctest.Path, shape core.Shape) {
				w := &watch{}
				c := serveFake(t, path, shape, w, &fakeServer{play: end.play})
				res := c.Call(soon(t), "x")
				want := sum{calls: 1, code: end.want(path, shape), requests: []string{"x"}}
				if shape.ServerStreams() && !end.none {
					want.responses = []string{"whole"}
				}
				w.check(t, core.SideClient, shape, want) // at once: the application's end is the chain's
				wantNative(t, path, res.Err, want.code)
				if !slices.Equal(res.Outputs, want.responses) {
					t.Errorf("the application got %q, want %q", res.Outputs, want.responses)
				}
			})
		})
	}
}

// The same, while the application is still sending.
func TestFramesOfAServerThatBreaksOffEarly(t *testing.T) {
	input := strings.Repeat("x", 4<<10) // the server takes 64 KiB
	for _, end := range endings() {
		t.Run(end.title(), func(t *testing.T) {
			eachBubble(t, rawClientPaths, []core.Shape{core.ShapeClientStream, core.ShapeBidiStream}, func(t *testing.T, path rpctest.Path, shape core.Shape) {
				w := &watch{}
				c := serveFake(t, path, shape, w, &fakeServer{play: end.play, early: true})
				stream, err := c.Open(soon(t))
				if err != nil {
					t.Fatal(err)
				}
				var sendErr, recvErr error
				var outputs []string
				send := func() {
					for sendErr == nil {
						sendErr = stream.Send(input)
					}
				}
				receive := func() {
					for recvErr == nil {
						var output string
						if output, recvErr = stream.Receive(); recvErr == nil {
							outputs = append(outputs, output)
						}
					}
				}
				if shape == core.ShapeClientStream {
					send()
					receive()
				} else {
					var sending sync.WaitGroup
					sending.Go(send)
					receive()
					sending.Wait()
				}
				want := sum{calls: 1, code: end.want(path, shape), requests: []string{input}, repeated: true}
				if shape.ServerStreams() && !end.none {
					want.responses = []string{"whole"}
				}
				w.check(t, core.SideClient, shape, want)
				wantNative(t, path, recvErr, want.code)
				if !slices.Equal(outputs, want.responses) {
					t.Errorf("the application got %q, want %q", outputs, want.responses)
				}
				if sendErr != io.EOF && core.CodeOf(sendErr) != want.code { //nolint:errorlint // rpctest promises itself
					t.Errorf("Send returned %v, want EOF or %s", sendErr, want.code)
				}
			})
		})
	}
}

func TestFramesOfAnErrorWithoutAHeader(t *testing.T) {
	info, err := anypb.New(&errdetails.ErrorInfo{Reason: "NOTHING_HERE"})
	if err != nil {
		t.Fatal(err)
	}
	details, err := proto.Marshal(&spb.Status{Code: int32(core.CodeNotFound), Message: "no such thing", Details: []*anypb.Any{info}})
	if err != nil {
		t.Fatal(err)
	}
	inJSON := fmt.Sprintf(`{"code":"not_found","message":"no such thing","details":[{"type":"google.rpc.ErrorInfo","value":"%s"}]}`,
		base64.RawStdEncoding.EncodeToString(info.GetValue()))
	want := show(&rpctest.Result{Err: errors.NotFound("no such thing").WithDetails(&errdetails.ErrorInfo{Reason: "NOTHING_HERE"})})
	want = slices.Insert(want, 2, `metadata x-trailer="1"`)
	eachBubble(t, rawClientPaths, rpctest.Shapes(), func(t *testing.T, path rpctest.Path, shape core.Shape) {
		play := func(r *fakeRequest) {
			switch {
			case r.protocol != core.ProtocolConnect:
				r.headers(r.id, true, ":status", "200", "content-type", r.contentType, "grpc-status", "5", "grpc-message", "no such thing",
					"grpc-status-details-bin", base64.RawStdEncoding.EncodeToString(details), "x-trailer", "1")
			case shape == core.ShapeUnary:
				r.headers(r.id, false, ":status", "404", "content-type", "application/json", "trailer-x-trailer", "1")
				r.data(r.id, true, []byte(inJSON))
			default:
				r.header()
				r.data(r.id, true, envelope(2, fmt.Appendf(nil, `{"error":%s,"metadata":{"x-trailer":["1"]}}`, inJSON)))
			}
		}
		w := &watch{}
		c := serveFake(t, path, shape, w, &fakeServer{play: play})
		res := c.Call(soon(t), "x")
		w.check(t, core.SideClient, shape, sum{calls: 1, code: core.CodeNotFound, requests: []string{"x"}})
		wantNative(t, path, res.Err, core.CodeNotFound)
		if got := show(res); !slices.Equal(got, want) {
			t.Errorf("the application saw\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
		weft, _ := errors.AsType[*errors.Error](w.errs[0])
		if got := pairsOf(weft.Metadata()); path.Client == rpctest.Connect && !slices.Equal(got, []string{"x-trailer=1"}) {
			t.Errorf("the error that next returned has the metadata %q", got)
		}
	})
}

func pairsOf(md *core.Metadata) (pairs []string) {
	for key, values := range md.All() {
		for _, value := range values {
			pairs = append(pairs, key+"="+value)
		}
	}
	return pairs
}

// Both stacks try a refused request again by themselves, below the interceptors.
func TestFramesOfARefusedStream(t *testing.T) {
	for name, refuse := range map[string]int{"always": 1 << 20, "Difference: once": 1} {
		t.Run(name, func(t *testing.T) {
			eachBubble(t, rawClientPaths, rpctest.Shapes(), func(t *testing.T, path rpctest.Path, shape core.Shape) {
				w := &watch{}
				f := &fakeServer{refuse: refuse, play: func(r *fakeRequest) { r.answer(core.CodeOK, "served") }}
				c := serveFake(t, path, shape, w, f)
				res := c.Call(soon(t), "x")
				want := sum{calls: 1, code: core.CodeUnavailable, requests: []string{"x"}}
				// net/http cannot send a stream of requests again.
				if refuse == 1 && (path.Client == rpctest.GRPC || !shape.ClientStreams()) {
					want.code, want.responses = core.CodeOK, []string{"served"}
				}
				w.check(t, core.SideClient, shape, want)
				if !slices.Equal(res.Outputs, want.responses) {
					t.Errorf("the application got %q, want %q", res.Outputs, want.responses)
				}
				if want.code != core.CodeOK {
					wantNative(t, path, res.Err, want.code)
				} else if res.Err != nil || f.count.Load() != 2 {
					t.Errorf("the application got %v after %d requests", res.Err, f.count.Load())
				}
			})
		})
	}
}
