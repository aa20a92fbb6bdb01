package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/rpcweft/weft/interceptors/trace"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
)

// fetch asks as a page does, with pairs of header names and values.
func fetch(t *testing.T, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(text)
}

func TestThePageIsWholeAndLoadsNothingElse(t *testing.T) {
	p := launch(t)
	for path, contentType := range map[string]string{
		"/": "text/html", "/app.js": "javascript", "/style.css": "text/css", "/favicon.svg": "image/svg", "/NOTICES": "text/plain", "/config.json": "application/json",
	} {
		res, text := fetch(t, http.MethodGet, p.url+path, "")
		policy := res.Header.Get("Content-Security-Policy")
		if res.StatusCode != http.StatusOK || !strings.Contains(res.Header.Get("Content-Type"), contentType) || text == "" ||
			!strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "connect-src 'self' "+p.webURL+";") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: %s, %v", path, res.Status, res.Header)
		}
		if path == "/" && (strings.Contains(text, "style=") || strings.Contains(text, "<script>") || strings.Contains(text, "//cdn")) {
			t.Error("the page has what its policy forbids")
		}
	}
	for _, call := range [][2]string{{http.MethodPost, "/"}, {http.MethodPost, "/weft.dummy.v1.DummyService/Nope"}, {http.MethodGet, "/src/main.ts"}, {http.MethodGet, "/nope"}} {
		if res, _ := fetch(t, call[0], p.url+call[1], ""); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s %s: %s", call[0], call[1], res.Status)
		}
	}
	_, text := fetch(t, http.MethodGet, p.url+"/config.json", "")
	if want := `{"auth":false,"servers":[{"id":"connect-go","url":""},{"id":"grpc-go","url":"` + p.webURL + `"}],"trace":true}`; text != want {
		t.Errorf("config.json is %s, want %s", text, want)
	}
}

// What browsers do not understand in a policy they ignore, and then refuse the call.
func TestThePageMayCallAnIPv6Address(t *testing.T) {
	if l, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Skip("no IPv6 here")
	} else {
		_ = l.Close()
	}
	p := launch(t, "-grpc-web-addr", "[::1]:0")
	_, port, _ := strings.Cut(p.webURL, "]")
	res, _ := fetch(t, http.MethodGet, p.url, "")
	if policy := res.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "connect-src 'self' http://*"+port+";") {
		t.Errorf("the page may not call %s: %s", p.webURL, policy)
	}
	if _, text := fetch(t, http.MethodGet, p.url+"/config.json", ""); !strings.Contains(text, `"`+p.webURL+`"`) {
		t.Errorf("the page does not know %s: %s", p.webURL, text)
	}
}

// A page's call to either server shows what the interceptors did, to the page alone.
func TestAPageFindsItsCallOnBothServers(t *testing.T) {
	p := launch(t)
	for i, url := range []string{p.url, p.webURL} {
		id := "page-" + string(rune('a'+i))
		origin := []string{"Origin", p.url}
		res, text := fetch(t, http.MethodPost, url+dummyv1connect.DummyServiceExecuteProcedure, `{"input":"fail:not_found"}`,
			append(origin, "Content-Type", "application/json", "X-Request-Id", id)...)
		if res.StatusCode != http.StatusNotFound || !strings.Contains(text, "DUMMY_FAILURE") && !strings.Contains(text, "ErrorInfo") || res.Header.Get("X-Request-Id") != id {
			t.Errorf("%s: %s %s %v", url, res.Status, text, res.Header)
		}
		res, text = fetch(t, http.MethodGet, url+"/trace?id="+id, "", origin...)
		var found struct {
			Calls []trace.Trace `json:"calls"`
		}
		if err := json.Unmarshal([]byte(text), &found); err != nil || len(found.Calls) != 1 {
			t.Fatalf("%s: %s %v: %s", url, res.Status, err, text)
		}
		names := make([]string, 0, 5)
		for _, span := range found.Calls[0].Spans {
			names = append(names, span.Name+" "+span.Code)
		}
		want := []string{"requestid not_found", "realip not_found", "logging not_found", "errors not_found", "handler not_found"}
		if !slices.Equal(names, want) || found.Calls[0].Protocol != "connect" {
			t.Errorf("%s: %s %q, want %q", url, found.Calls[0].Protocol, names, want)
		}
		if allowed := res.Header.Get("Access-Control-Allow-Origin"); i == 0 && allowed != "" || i == 1 && allowed != p.url {
			t.Errorf("%s: allowed origin %q", url, allowed)
		}
		res, _ = fetch(t, http.MethodGet, url+"/trace?id="+id, "", "Origin", "http://evil.example")
		if allowed := res.Header.Get("Access-Control-Allow-Origin"); allowed != "" {
			t.Errorf("%s: allowed origin %q", url, allowed)
		}
	}
}

func TestWhatTheInterceptorsDidIsNotForEverybody(t *testing.T) {
	const token = "hunter2-token"
	p := launch(t, "-auth-token", token)
	for _, url := range []string{p.url, p.webURL} {
		for value, want := range map[string]int{
			"": http.StatusUnauthorized, "Bearer x": http.StatusUnauthorized, token: http.StatusUnauthorized, "Bearer " + token: http.StatusNotFound,
		} {
			if res, _ := fetch(t, http.MethodGet, url+"/trace?id=x", "", "Authorization", value); res.StatusCode != want {
				t.Errorf("%s with %q: %s", url, value, res.Status)
			}
		}
	}
	if _, text := fetch(t, http.MethodGet, p.url+"/config.json", ""); !strings.Contains(text, `"auth":true`) || strings.Contains(text, "hunter2") {
		t.Error(text)
	}
	p = launch(t, "-trace=false")
	fetch(t, http.MethodPost, p.url+dummyv1connect.DummyServiceExecuteProcedure, `{"input":"x"}`, "Content-Type", "application/json", "X-Request-Id", "x")
	if res, _ := fetch(t, http.MethodGet, p.url+"/trace?id=x", ""); res.StatusCode != http.StatusNotFound {
		t.Errorf("without -trace: %s", res.Status)
	}
	if _, text := fetch(t, http.MethodGet, p.url+"/config.json", ""); !strings.Contains(text, `"trace":false`) {
		t.Error(text)
	}
}
