package trace_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/requestid"
	"github.com/rpcweft/weft/interceptors/trace"
	"github.com/rpcweft/weft/rpctest"
)

func get(rec *trace.Recorder, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	rec.ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
	return w
}

// The page that draws it reads this.
const format = `{
 "calls": [
  {
   "id": "r-42",
   "method": "/weft.dummy.v1.DummyService/ExecuteServerStream",
   "side": "server",
   "shape": "server_stream",
   "protocol": "grpc",
   "httpMethod": "POST",
   "start": "2000-01-01T00:00:00Z",
   "durationNs": 0,
   "running": false,
   "panicked": false,
   "code": "not_found",
   "spans": [
    {
     "name": "requestid",
     "parent": -1,
     "depth": 0,
     "attempt": 1,
     "enteredNs": 0,
     "durationNs": 0,
     "running": false,
     "panicked": false,
     "code": "not_found",
     "next": 1,
     "requests": 0,
     "responses": 0,
     "events": []
    },
    {
     "name": "handler",
     "parent": 0,
     "depth": 1,
     "attempt": 1,
     "enteredNs": 0,
     "durationNs": 0,
     "running": false,
     "panicked": false,
     "code": "not_found",
     "next": 0,
     "requests": 0,
     "responses": 0,
     "events": []
    }
   ],
   "droppedSpans": 0
  }
 ]
}
`

func TestTheAnswerIsJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := on(t)
		call := func(id string) {
			_ = rpctest.Call(rpctest.Fake{
				Shape: core.ShapeServerStream, RequestHeader: map[string][]string{"x-request-id": {id}},
				Invoke: func(context.Context, *core.Call) error { return errors.NotFound("no") },
			}).Run(t.Context(), rec.Wrap(ids(t))...)
		}
		call("other")
		call("r-42")
		w := get(rec, "/debug/calls?id=r-42")
		var body bytes.Buffer
		if err := json.Indent(&body, w.Body.Bytes(), "", " "); err != nil {
			t.Fatal(err)
		}
		if w.Code != http.StatusOK || body.String()+"\n" != format {
			t.Errorf("got %d %s", w.Code, &body)
		}
		var answer map[string][]trace.Trace
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || outline(answer["calls"][0]) != outline(rec.Calls("r-42")[0]) {
			t.Errorf("it reads as %+v, %v", answer, err)
		}
		for key, value := range map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
			if got := w.Header().Get(key); got != value {
				t.Errorf("%s: %q", key, got)
			}
		}
		for range 60 {
			call("many")
		}
		if err := json.Unmarshal(get(rec, "/?id=many").Body.Bytes(), &answer); err != nil || len(answer["calls"]) != 50 {
			t.Errorf("%d calls in one answer, want 50: %v", len(answer["calls"]), err)
		}
	})
}

func TestWhatIsNotAnswered(t *testing.T) {
	rec, off, list := on(t), must(t, 1, nil), must(t, 1, &trace.Options{List: true})
	var none *trace.Recorder
	for _, test := range []struct {
		rec            *trace.Recorder
		method, target string
		code           int
		text           string
	}{
		{rec, "GET", "/?id=unknown", 404, "no call with this id is recorded, or it was long ago"},
		{off, "GET", "/?id=unknown", 404, "recording is off"},
		{none, "GET", "/?id=unknown", 404, "recording is off"},
		{rec, "GET", "/", 400, "want one id"},
		{none, "GET", "/", 400, "want one id"},
		{list, "GET", "/?id=", 400, "want one id"},
		{list, "GET", "/?id=a&id=b", 400, "want one id"},
		{list, "GET", "/?id=" + strings.Repeat("x", 129), 400, "want one id"},
		{list, "GET", "/", 200, `{"calls":[]}`},
		{list, "HEAD", "/", 200, `{"calls":[]}`},
		{list, "POST", "/", 405, "want GET or HEAD"},
	} {
		w := httptest.NewRecorder()
		test.rec.ServeHTTP(w, httptest.NewRequest(test.method, test.target, nil))
		h := w.Header()
		if w.Code != test.code || !strings.Contains(w.Body.String(), test.text) || strings.Contains(w.Body.String(), "unknown") || h.Get("Cache-Control") != "no-store" ||
			h.Get("X-Content-Type-Options") != "nosniff" || (test.code == 405) != (h.Get("Allow") == "GET, HEAD") {
			t.Errorf("%s %.20s: got %d %v %s", test.method, test.target, w.Code, h, w.Body)
		}
	}
}

func ExampleRecorder_Wrap() {
	rec, err := trace.New(100, &trace.Options{Enabled: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	ids, err := requestid.New(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	guard := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		if call.RequestHeader().Get("authorization") == "" {
			return errors.Unauthenticated("who are you?")
		}
		return next(ctx, call)
	})
	chain := rec.Wrap(ids, errors.NewInterceptor(nil), trace.Named("guard", guard))

	for id, token := range map[string]string{"r-1": "", "r-2": "Bearer s3cret"} {
		call := rpctest.Call(rpctest.Fake{
			RequestHeader: map[string][]string{"x-request-id": {id}, "authorization": {token}},
			Responses:     []any{&rpctest.Response{}},
		})
		_ = call.Run(context.Background(), chain...)
	}
	for _, id := range []string{"r-1", "r-2"} {
		for _, span := range rec.Calls(id)[0].Spans {
			fmt.Printf("%s %s%s: %s, %d requests, %d responses\n", id, strings.Repeat("  ", span.Depth), span.Name, span.Code, span.Requests, span.Responses)
		}
	}
	// Output:
	// r-1 requestid: unauthenticated, 0 requests, 0 responses
	// r-1   errors: unauthenticated, 0 requests, 0 responses
	// r-1     guard: unauthenticated, 0 requests, 0 responses
	// r-2 requestid: ok, 1 requests, 1 responses
	// r-2   errors: ok, 1 requests, 1 responses
	// r-2     guard: ok, 1 requests, 1 responses
	// r-2       handler: ok, 1 requests, 1 responses
}
