package web

import (
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/rpcweft/weft/core"
)

// call is one HTTP request on its way through vanguard to the server and back:
//
//	outerWriter, outerBody  <->  vanguard  <->  innerWriter, innerBody  <->  grpc
//
// grpc reads the request in one goroutine and writes the response in another. vanguard is not made for that: what it
// finds wrong in the request it writes into the response at once. So monitor is held by whoever runs inside of
// vanguard, but not while it waits for the client to send, or to take what it is sent: clients may do the one without the other.
type call struct {
	protocol   core.Protocol
	httpMethod string
	control    *http.ResponseController
	request    io.Closer // its body
	http1      bool
	transcoded bool // by vanguard: it is not gRPC, or not what the server knows of it
	out        outerWriter

	monitor  sync.Mutex
	left     sync.Cond // writing is over
	reading  bool      // the holder reads the request
	writing  bool      // a part of the response is under way, perhaps without the monitor
	read     bool      // the request is, all of it
	answered bool      // by vanguard, because of the request

	// grpc would take in the request as fast as it comes, however much it is. It gets one message more
	// than the server has asked for: enough to see that there is none.
	window  sync.Mutex
	turn    sync.Cond
	asking  *atomic.Bool // a stream has told what it wants: the server does have the interceptors of grpcx
	entered bool
	wanted  int
	closed  bool
}

func (h *handler) newCall(w http.ResponseWriter, r *http.Request, protocol core.Protocol) *call {
	c := &call{
		protocol: protocol, httpMethod: r.Method, control: http.NewResponseController(w),
		request: r.Body, http1: r.ProtoMajor == 1, asking: &h.asking, wanted: 1,
	}
	c.turn.L, c.left.L = &c.window, &c.monitor
	c.out = outerWriter{ResponseWriter: w, call: c}
	return c
}

// Protocol implements [origin.Call].
func (c *call) Protocol() core.Protocol { return c.protocol }

// HTTPMethod implements [origin.Call].
func (c *call) HTTPMethod() string { return c.httpMethod }

// Entered implements [origin.Call].
func (c *call) Entered(received int) {
	if received == 0 && !c.asking.Load() {
		c.asking.Store(true)
	}
	c.update(func() { c.entered, c.wanted = true, received })
}

// Receiving implements [origin.Call].
func (c *call) Receiving() {
	c.update(func() { c.wanted++ })
}

func (c *call) update(change func()) {
	c.window.Lock()
	defer c.window.Unlock()
	change()
	c.turn.Broadcast()
}

// await waits until grpc may have one more message than those that it has, and reports whether it still wants one.
func (c *call) await(had int) bool {
	c.window.Lock()
	defer c.window.Unlock()
	for (c.entered || c.asking.Load()) && !c.closed && had > c.wanted {
		c.turn.Wait()
	}
	return !c.closed
}

// write runs what writes a part of the response.
func (c *call) write(part func()) {
	c.monitor.Lock()
	defer c.monitor.Unlock()
	c.writing = true
	defer func() {
		c.writing = false
		c.left.Broadcast()
	}()
	part()
}

// send runs what waits for the client to take something.
func (c *call) send(something func()) {
	switch {
	case c.reading: // and has found a fault, to be told behind the part that is under way
		c.answered, c.reading = true, false
		for c.writing {
			c.left.Wait()
		}
		c.reading = true
	case c.writing:
		c.monitor.Unlock()
		defer c.monitor.Lock()
	}
	something()
}

// outerBody is the request as it comes from the client.
type outerBody struct {
	io.ReadCloser

	call *call
}

// Read implements [io.Reader]. It is called with the monitor.
func (b *outerBody) Read(p []byte) (n int, err error) {
	c := b.call
	c.reading = false
	c.monitor.Unlock()
	defer func() {
		c.monitor.Lock()
		c.reading, c.read = true, c.read || errors.Is(err, io.EOF)
	}()
	return b.ReadCloser.Read(p)
}

// innerBody is the request as grpc reads it.
type innerBody struct {
	io.ReadCloser

	call *call
	had  int   // messages
	left int64 // of the message under way
	end  error

	compressed bool // by vanguard
}

const prefixLen = 5

// Read implements [io.Reader]. It fills p, or brings the rest of a message: grpc spends a buffer of 16 KiB on each read.
func (b *innerBody) Read(p []byte) (n int, err error) {
	if b.end != nil {
		return 0, b.end
	}
	if b.left == 0 {
		if len(p) < prefixLen {
			return 0, io.ErrShortBuffer
		}
		if !b.call.await(b.had) {
			return 0, io.ErrClosedPipe
		}
		if n, err = b.fill(p[:prefixLen]); err != nil {
			return n, err
		}
		b.left = int64(binary.BigEndian.Uint32(p[1:prefixLen]))
		b.had++
		if b.left == 0 && b.compressed {
			p[0] &^= 1 // of what becomes empty vanguard says that it is compressed, and leaves it empty
		}
	}
	more, err := b.fill(p[n:min(int64(len(p)), int64(n)+b.left)])
	b.left -= int64(more)
	return n + more, err
}

func (b *innerBody) fill(p []byte) (n int, err error) {
	c := b.call
	c.monitor.Lock()
	defer c.monitor.Unlock()
	c.reading = true
	n, err = io.ReadFull(b.ReadCloser, p)
	c.reading = false
	if err == nil {
		return n, nil
	}
	switch {
	case connect.CodeOf(err) == connect.CodeResourceExhausted:
		err = http2.StreamError{Code: http2.ErrCodeEnhanceYourCalm} // for grpc the same
	case c.answered, b.left > 0 && errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF // or a handler would take it for the end of a success
	}
	b.end = err
	return n, err
}

// Close implements [io.Closer]. vanguard's waits for a read under way, and the client may never send again. Over HTTP/1.1 a
// response cannot end before its request, whoever serves it.
func (b *innerBody) Close() error {
	c := b.call
	c.update(func() { c.closed = true })
	c.monitor.Lock()
	read := c.read
	c.monitor.Unlock()
	if !read && !c.http1 {
		if err := c.control.SetReadDeadline(time.Unix(1, 0)); err != nil {
			_ = c.request.Close() // enough for HTTP/2
		}
	}
	return b.ReadCloser.Close()
}

// innerWriter is the response as grpc writes it. Its header is grpc's alone, so that vanguard may write in the meantime.
type innerWriter struct {
	call   *call
	w      http.ResponseWriter
	header http.Header
	code   int
}

// Header implements [http.ResponseWriter].
func (w *innerWriter) Header() http.Header { return w.header }

// WriteHeader implements [http.ResponseWriter].
func (w *innerWriter) WriteHeader(code int) {
	w.call.write(func() { w.start(code) })
}

func (w *innerWriter) start(code int) {
	if w.code != 0 {
		return
	}
	w.code = code
	delete(w.header, "Date") // grpc suppresses it
	header := w.w.Header()
	if outer := header["Vary"]; outer != nil { // package cors has said what caches must know
		w.header["Vary"] = append(slices.Clip(outer), w.header["Vary"]...)
	}
	maps.Copy(header, w.header)
	w.w.WriteHeader(code)
}

// Write implements [http.ResponseWriter].
func (w *innerWriter) Write(p []byte) (n int, err error) {
	w.call.write(func() {
		if w.call.answered {
			err = io.ErrClosedPipe
			return
		}
		w.start(http.StatusOK)
		n, err = w.w.Write(p)
	})
	return n, err
}

// Flush implements [http.Flusher]. vanguard's does nothing, so that a header would wait for the first message. Over HTTP/1.1
// net/http throws away what is left of the request then.
func (w *innerWriter) Flush() {
	w.call.write(func() {
		w.start(http.StatusOK)
		if w.call.out.started && (w.call.read || !w.call.http1) {
			w.call.out.Flush()
		}
	})
}

var statusKeys = []string{"Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin"}

// finish hands over the trailer when grpc has returned.
func (w *innerWriter) finish() { w.call.write(w.end) }

func (w *innerWriter) end() {
	bare := w.code == 0 // all that there is goes into the header
	if bare || w.code == http.StatusOK && w.header.Get("Grpc-Status") == "" {
		// The server was stopped, or the client has gone.
		w.header.Set("Content-Type", "application/grpc")
		w.header.Set("Grpc-Status", strconv.Itoa(int(codes.Unavailable)))
		w.header.Set("Grpc-Message", "the server is stopping")
		w.start(http.StatusOK)
	}
	header := w.w.Header()
	for key, values := range w.header {
		if strings.HasPrefix(key, http.TrailerPrefix) {
			header[key] = values
		}
	}
	for _, key := range statusKeys {
		switch values := w.header[key]; {
		case values == nil || bare:
		case w.call.transcoded:
			header[key] = values
		default:
			header[http.TrailerPrefix+key] = values
		}
	}
}

// outerWriter is the response as it goes to the client.
type outerWriter struct {
	http.ResponseWriter

	call     *call
	started  bool
	declared []string // keys of trailers
	frames   *frames  // of gRPC-Web
}

// finish sees to the trailers that vanguard has left in the header: all go if it is gRPC, or else none, as when vanguard has ended
// the call with an error of its own.
func (w *outerWriter) finish() {
	header := w.Header()
	for _, key := range w.declared {
		if values := header[key]; values != nil && w.call.protocol == core.ProtocolGRPC {
			header[http.TrailerPrefix+key] = values
		}
	}
	for key := range header {
		if strings.HasPrefix(key, http.TrailerPrefix) && w.call.protocol != core.ProtocolGRPC {
			delete(header, key)
		}
	}
}

// WriteHeader implements [http.ResponseWriter].
func (w *outerWriter) WriteHeader(code int) {
	w.call.answered = w.call.answered || w.call.reading
	w.started = true
	w.declared = w.Header()["Trailer"] // what may come; only gRPC has trailers, and they can come without it
	w.Header().Del("Trailer")
	if strings.HasPrefix(w.Header().Get("Content-Type"), "application/grpc-web") {
		w.frames = &frames{}
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write implements [http.ResponseWriter].
func (w *outerWriter) Write(p []byte) (n int, err error) {
	if !w.started {
		w.WriteHeader(http.StatusOK)
	}
	w.call.send(func() {
		if w.frames != nil {
			p = w.frames.lower(p)
		}
		n, err = w.ResponseWriter.Write(p)
	})
	return n, err
}

// Flush implements [http.Flusher].
func (w *outerWriter) Flush() {
	w.call.send(func() { _ = w.call.control.Flush() })
}

// Unwrap is for [http.ResponseController].
func (w *outerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
