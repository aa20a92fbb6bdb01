package browser

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// Only the console says why a browser refuses; to a page, and so to all clients, the network has failed. The reason is the
// same for a header as for an origin: github.com/rs/cors then leaves out all that a preflight asks for.
func TestThePageOfAnotherOriginIsRefused(t *testing.T) {
	t.Parallel()
	const why = "blocked by CORS policy: Response to preflight request doesn't pass access control check: " +
		"No 'Access-Control-Allow-Origin' header is present"
	for _, test := range []struct {
		name    string
		allowed bool
		header  map[string][]string
	}{
		{"if its origin is not allowed", false, nil},
		{"if it sends a header that is not allowed", true, map[string][]string{"x-forbidden": {"1"}}},
	} {
		for _, stack := range []string{"connect-go", "grpc-go"} {
			t.Run(fmt.Sprint(test.name, " by ", stack), func(t *testing.T) {
				t.Parallel()
				page := serve(t, "connect-go", "HTTP/1.1", "")
				allowed := ""
				if test.allowed {
					allowed = page.URL
				}
				s := serve(t, stack, "HTTP/1.1", allowed)
				tab := open(t, page.URL)
				if test.allowed { // with nothing else
					results := tab.run(t, []job{{clients[0].name, s.URL, []call{{ID: "allowed", Shape: unary}}}})
					if r := results["allowed"]; r.Code != "ok" {
						t.Errorf("without the header: %s %q", r.Code, r.Message)
					}
				}
				for i, c := range clients {
					var calls []call
					for n, shape := range []string{unary, serverStream} {
						if c.method == "GET" && shape != unary {
							continue
						}
						calls = append(calls, call{ID: fmt.Sprint(i, n), Shape: shape, Header: test.header})
					}
					results := tab.run(t, []job{{c.name, s.URL, calls}})
					for _, call := range calls {
						r := results[call.ID]
						message := "Failed to fetch"
						if strings.HasPrefix(c.name, "grpc-web") {
							message = "Http response at 400 or 500 level, http status code: 0"
						}
						if r.Code != "unknown" || r.Message != message {
							t.Errorf("%s: %s %q, want unknown %q", c.name, r.Code, r.Message, message)
						}
						tab.await(t, why)
						if requests := s.seen(call.ID).requests; requests != nil {
							t.Errorf("%s: the server got %q", c.name, requests)
						}
					}
				}
			})
		}
	}
}

func TestTheTextModeIsRefused(t *testing.T) {
	for _, stack := range []string{"connect-go", "grpc-go"} {
		s := serve(t, stack, "HTTP/1.1", "")
		for _, kind := range []string{"application/grpc-web-text", "application/grpc-web-text+proto"} {
			res, err := http.Post(s.URL+"/weft.dummy.v1.DummyService/Execute", kind, strings.NewReader("AAAAAAA="))
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != http.StatusUnsupportedMediaType {
				t.Errorf("%s answers %s with %s, want 415", stack, kind, res.Status)
			}
		}
	}
}

// Whatever the browser is asked for, it finds no host but this machine.
func TestTheBrowserFindsNoOtherHost(t *testing.T) {
	tab := open(t, serve(t, "connect-go", "HTTP/1.1", "").URL)
	const other = "http://weft.example/"
	fetched, err := chromedp.Run(tab, chromedp.Evaluate[string](
		fmt.Sprintf("fetch(%q).then(() => 'found', String)", other), chromedp.EvalAwaitPromise))
	if err != nil || fetched != "TypeError: Failed to fetch" {
		t.Errorf("%s, %v", fetched, err)
	}
	tab.await(t, "net::ERR_NAME_NOT_RESOLVED")
	tab.mu.Lock()
	defer tab.mu.Unlock()
	if !slices.Contains(tab.requests, other) {
		t.Errorf("the request to %s is not among %q", other, tab.requests)
	}
	tab.requests = nil // for it did not leave the machine
}
