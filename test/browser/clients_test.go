package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/chromedp/chromedp"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
	"github.com/rpcweft/weft/rpctest"
)

// client is one that src/clients.ts knows by the name.
type client struct {
	name     string
	protocol core.Protocol
	method   string // of HTTP; with GET it calls only what has no side effects
	// likewise makes a Go client say the same on the wire.
	likewise []connect.ClientOption
	// differs changes what the table wants into what the client can do. It returns more calls, of this client alone.
	differs func(stack string, calls []call) []call
}

var clients = []client{
	{"connect-web Connect JSON", core.ProtocolConnect, "POST", []connect.ClientOption{connect.WithProtoJSON()}, noClientStreams},
	{"connect-web Connect proto", core.ProtocolConnect, "POST", nil, noClientStreams},
	{"connect-web Connect GET JSON", core.ProtocolConnect, "GET", []connect.ClientOption{connect.WithProtoJSON()}, none},
	{"connect-web Connect GET proto", core.ProtocolConnect, "GET", nil, none},
	{"connect-web gRPC-Web JSON", core.ProtocolGRPCWeb, "POST", []connect.ClientOption{connect.WithGRPCWeb(), connect.WithProtoJSON()}, noClientStreams},
	{"connect-web gRPC-Web proto", core.ProtocolGRPCWeb, "POST", []connect.ClientOption{connect.WithGRPCWeb()}, noClientStreams},
	{"grpc-web binary", core.ProtocolGRPCWeb, "POST", []connect.ClientOption{connect.WithGRPCWeb()}, allAtTheEnd},
	{"grpc-web text", core.ProtocolGRPCWeb, "", nil, refused},
}

func none(string, []call) []call { return nil }

// No browser sends the body of a request while it reads that of the response.
func noClientStreams(string, []call) (more []call) {
	for _, shape := range []string{"client_stream", "bidi_stream"} {
		more = append(more, call{Name: shape, Shape: shape, want: want{
			code: core.CodeUnknown, message: "The fetch API does not support streaming request bodies", refused: true,
		}})
	}
	return more
}

// Google's client hands out the messages of a binary stream when it has ended, says nothing of one that was canceled, and
// keeps the last of a trailer's values.
func allAtTheEnd(_ string, calls []call) []call {
	for i := range calls {
		if calls[i].Cancel && calls[i].Shape == serverStream {
			calls[i].want = want{silent: true}
		}
		calls[i].want.last = true
	}
	return nil
}

// No server understands the base64 of the text mode, which is this client's default: they answer with 415, grpc-go's
// with a text in addition.
func refused(stack string, _ []call) (more []call) {
	message := "Http response at 400 or 500 level, http status code: 415"
	if stack == "grpc-go" {
		message = "Unknown Content-type received."
	}
	for _, shape := range []string{unary, serverStream} {
		more = append(more, call{Name: shape, Shape: shape, want: want{code: core.CodeUnknown, message: message, refused: true}})
	}
	return more
}

// table returns the client's calls.
func (c *client) table(id, stack string) []call {
	var calls []call
	switch c.method {
	case "GET":
		calls = table([]string{unary})
	case "POST":
		calls = table([]string{unary, serverStream})
	}
	calls = append(calls, c.differs(stack, calls)...)
	for i := range calls {
		calls[i].ID = fmt.Sprint(id, i)
	}
	return calls
}

// job is a client and its calls.
type job struct {
	Client string `json:"client"`
	URL    string `json:"url"`
	Calls  []call `json:"calls"`
}

// connections is how many a browser has to a server that speaks HTTP/1.1. A call that must not wait for one is not made
// beside more than these.
const connections = 6

// run has the clients of a page make their calls, of each one after the other. It returns the results by the calls' names.
func (tab *tab) run(t *testing.T, jobs []job) map[string]result {
	t.Helper()
	results := map[string]result{}
	for some := range slices.Chunk(jobs, connections) {
		input, err := json.Marshal(some)
		if err != nil {
			t.Fatal(err)
		}
		output, err := chromedp.Run(tab, chromedp.Evaluate[[]byte](fmt.Sprintf("run(%s)", input), chromedp.EvalAwaitPromise))
		var part [][]result
		if err == nil {
			err = json.Unmarshal(output, &part)
		}
		if err != nil {
			t.Fatalf("the clients: %v", err)
		}
		if strings.Contains(string(output), "hunter2") {
			t.Errorf("a secret reached the page: %s", output)
		}
		for i, job := range some {
			for n, call := range job.Calls {
				results[call.ID] = part[i][n]
			}
		}
	}
	return results
}

func TestClients(t *testing.T) {
	if testing.Short() {
		t.Skip("a browser is slow")
	}
	var total atomic.Int64
	t.Run("of", func(t *testing.T) {
		for _, stack := range []string{"connect-go", "grpc-go"} {
			for _, http := range []string{"HTTP/1.1", "HTTP/2.0"} {
				for _, origin := range []string{"same", "other"} {
					t.Run(fmt.Sprint(stack, " by ", http, " from the ", origin, " origin"), func(t *testing.T) {
						t.Parallel()
						total.Add(int64(testClients(t, stack, http, origin)))
					})
				}
			}
		}
	})
	t.Logf("%d calls", total.Load())
}

// testClients has all clients make their calls, and compares what they and the server see. It returns the number of calls.
func testClients(t *testing.T, stack, http, origin string) (total int) {
	t.Helper()
	page := serve(t, "connect-go", http, "")
	s := page
	if origin == "other" {
		s = serve(t, stack, http, page.URL)
	} else if stack != "connect-go" {
		s = serve(t, stack, http, "")
		page = s
	}
	tab := open(t, page.URL,
		chromedp.ExposeFunc("reached", s.wait(func(s *seen) chan struct{} { return s.reached })),
		chromedp.ExposeFunc("ended", s.wait(func(s *seen) chan struct{} { return s.ended })),
	)
	quick, slow := make([]job, len(clients)), []job{}
	calls, likewise := make([][]call, len(clients)), make([][]call, len(clients))
	var running sync.WaitGroup
	for i, c := range clients {
		calls[i], likewise[i] = c.table(fmt.Sprint("browser-", i, "-"), stack), c.table(fmt.Sprint("go-", i, "-"), stack)
		total += len(calls[i])
		running.Go(func() { c.callInGo(t, s, likewise[i]) })
		var rest []call
		for _, one := range calls[i] {
			if one.TimeoutMS > 0 && one.want.code == core.CodeDeadlineExceeded {
				slow = append(slow, job{c.name, s.URL, []call{one}})
			} else {
				rest = append(rest, one)
			}
		}
		quick[i] = job{c.name, s.URL, rest}
	}
	results := tab.run(t, quick)
	maps.Copy(results, tab.run(t, slow))
	running.Wait()
	for i, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			for n, call := range calls[i] {
				result := results[call.ID]
				for _, complaint := range call.complaints(&result) {
					t.Errorf("%s: %s", call.Name, complaint)
				}
				got, want := s.seen(call.ID), s.seen(likewise[i][n].ID)
				if call.want.refused {
					if events := got.record.Events(core.SideServer); events != nil {
						t.Errorf("%s: the server saw %v", call.Name, events)
					}
					continue
				}
				if diff := rpctest.Diff(want.events(t, &call), got.events(t, &call)); diff != "" {
					t.Errorf("%s: the server saw it not as it sees a Go client's:\n%s", call.Name, diff)
				}
				if !slices.Equal(got.requests, want.requests) || !strings.HasPrefix(strings.Join(got.requests, "\n"), http+" "+c.method+" ") {
					t.Errorf("%s: requests %q, want one by %s %s, as Go's %q", call.Name, got.requests, http, c.method, want.requests)
				}
				if got.protocol != c.protocol || got.method != c.method {
					t.Errorf("%s: the interceptors saw %s by %s, want %s by %s", call.Name, got.protocol, got.method, c.protocol, c.method)
				}
				if two := []string{"a, b"}; call.Header != nil && (!slices.Equal(got.two, two) || !slices.Equal(want.two, sent["two"])) {
					t.Errorf("%s: of a key with two values the server saw %q, want %q; from Go %q", call.Name, got.two, two, want.two)
				}
			}
		})
	}
	return total
}

// events returns what the interceptors of the server saw, once the call is over.
func (s *seen) events(t *testing.T, c *call) []rpctest.Event {
	t.Helper()
	select {
	case <-s.ended:
	case <-time.After(patience):
		t.Fatalf("%s has not ended; of it there is %q", c.Name, s.record.Events(core.SideServer))
	}
	events := s.record.Events(core.SideServer)
	for i := range events {
		switch e := &events[i]; {
		case c.want.deadline > 0 && e.What == "response":
			e.Text = "" // the time that is left is never quite the same
		case c.want.code == core.CodeDeadlineExceeded && e.Text == core.CodeCanceled.String():
			e.Text = c.want.code.String() // the client's clock was faster than the server's
		}
	}
	return events
}

// callInGo makes the calls of a table by connect-go's client.
func (c *client) callInGo(t *testing.T, s *site, calls []call) {
	t.Helper()
	execute := dummyv1connect.DummyServiceExecuteProcedure
	options := slices.Clone(c.likewise)
	if c.method == "GET" {
		execute = getExecute
		options = append(options, connect.WithHTTPGet(), connect.WithIdempotency(connect.IdempotencyNoSideEffects))
	}
	single := connect.NewClient[dummyv1.DummyRequest, dummyv1.DummyResponse](s.Client(), s.URL+execute, options...)
	stream := connect.NewClient[dummyv1.DummyRequest, dummyv1.DummyResponse](
		s.Client(), s.URL+dummyv1connect.DummyServiceExecuteServerStreamProcedure, options...)
	for _, call := range calls {
		if call.want.refused {
			continue
		}
		func() {
			ctx, cancel := context.WithCancel(t.Context())
			if call.TimeoutMS > 0 {
				ctx, cancel = context.WithTimeout(ctx, time.Duration(call.TimeoutMS)*time.Millisecond)
			}
			defer cancel()
			if call.Cancel {
				go func() {
					<-s.seen(call.ID).reached
					cancel()
				}()
			}
			req := connect.NewRequest(&dummyv1.DummyRequest{Input: call.Input})
			req.Header().Set(idKey, call.ID)
			for key, values := range call.Header {
				for _, value := range values {
					req.Header().Add(key, value)
				}
			}
			if call.Shape == unary {
				_, _ = single.CallUnary(ctx, req)
				return
			}
			responses, err := stream.CallServerStream(ctx, req)
			for received := err == nil; received; received = responses.Receive() {
				continue
			}
			if err == nil {
				_ = responses.Close()
			}
		}()
	}
}
