package cors_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/cors"
	"github.com/rpcweft/weft/internal/dummy"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
)

func ExampleNew() {
	wrap, err := cors.New(&cors.Options{
		Origins:         []string{"https://app.example.com"},
		RequestHeaders:  []string{"authorization"},
		ResponseHeaders: []string{"x-request-id"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	path, handler := dummyv1connect.NewDummyServiceHandler(dummy.New(nil).Connect())
	mux := http.NewServeMux()
	mux.Handle(path, handler)
	server := httptest.NewServer(wrap(mux))
	defer server.Close()

	// A browser asks before it sends a header of the application's own.
	for _, origin := range []string{"https://app.example.com", "https://evil.example.com"} {
		ask, _ := http.NewRequest(http.MethodOptions, server.URL+path+"Execute", nil)
		ask.Header.Set("Origin", origin)
		ask.Header.Set("Access-Control-Request-Method", http.MethodPost)
		ask.Header.Set("Access-Control-Request-Headers", "authorization,connect-protocol-version,content-type")
		answer, err := http.DefaultClient.Do(ask)
		if err != nil {
			fmt.Println(err)
			return
		}
		_ = answer.Body.Close()
		fmt.Printf("%q\n", answer.Header.Get("Access-Control-Allow-Headers"))
	}
	// Output:
	// "authorization,connect-protocol-version,content-type"
	// ""
}

// serve serves the Dummy service of connect-go with the options, and counts what reaches it.
func serve(t *testing.T, o *cors.Options) (url string, reached *int) {
	t.Helper()
	wrap, err := cors.New(o)
	if err != nil {
		t.Fatal(err)
	}
	_, handler := dummyv1connect.NewDummyServiceHandler(dummy.New(nil).Connect(), connect.WithInterceptors(connectx.New()))
	reached = new(int)
	server := httptest.NewServer(wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*reached++
		handler.ServeHTTP(w, r)
	})))
	t.Cleanup(server.Close)
	return server.URL + dummyv1connect.DummyServiceExecuteProcedure, reached
}

// send returns the header of the response.
func send(t *testing.T, method, url string, header ...string) http.Header {
	t.Helper()
	req, _ := http.NewRequest(method, url, strings.NewReader(`{"input":"metadata"}`))
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.Header
}

func TestPreflight(t *testing.T) {
	const app = "https://app.example.com"
	protocol := "connect-protocol-version,connect-timeout-ms,content-type"
	for name, test := range map[string]struct {
		options         cors.Options
		origin          string
		method, headers string
		allowed         bool
	}{
		"allowed":                      {cors.Options{Origins: []string{app}}, app, "POST", protocol, true},
		"gRPC-Web":                     {cors.Options{Origins: []string{app}}, app, "POST", "content-type,grpc-timeout,x-grpc-web,x-user-agent", true},
		"GET":                          {cors.Options{Origins: []string{app}}, app, "GET", "connect-timeout-ms", true},
		"nobody":                       {cors.Options{}, app, "POST", protocol, false},
		"another origin":               {cors.Options{Origins: []string{app}}, "https://evil.example.com", "POST", protocol, false},
		"another scheme":               {cors.Options{Origins: []string{app}}, "http://app.example.com", "POST", protocol, false},
		"another port":                 {cors.Options{Origins: []string{app}}, app + ":8443", "POST", protocol, false},
		"a longer origin":              {cors.Options{Origins: []string{app}}, app + ".evil.com", "POST", protocol, false},
		"null":                         {cors.Options{Origins: []string{app}}, "null", "POST", protocol, false},
		"another method":               {cors.Options{Origins: []string{app}}, app, "PUT", protocol, false},
		"a method of others":           {cors.Options{Origins: []string{app}}, app, "HEAD", protocol, false},
		"a header that is not allowed": {cors.Options{Origins: []string{app}}, app, "POST", "authorization", false},
		"an own header":                {cors.Options{Origins: []string{app}, RequestHeaders: []string{"Authorization"}}, app, "POST", "authorization,content-type", true},
		"any origin":                   {cors.Options{Origins: []string{"*"}}, "https://who.knows", "POST", protocol, true},
		"a port":                       {cors.Options{Origins: []string{"http://localhost:5173"}}, "http://localhost:5173", "POST", protocol, true},
		"below a domain":               {cors.Options{Origins: []string{"https://*.example.com"}}, "https://a.b.example.com", "POST", protocol, true},
		"the domain itself":            {cors.Options{Origins: []string{"https://*.example.com"}}, "https://example.com", "POST", protocol, false},
		"below another domain":         {cors.Options{Origins: []string{"https://*.example.com"}}, "https://a.notexample.com", "POST", protocol, false},
	} {
		t.Run(name, func(t *testing.T) {
			url, reached := serve(t, &test.options)
			got := send(t, http.MethodOptions, url, "Origin", test.origin, "Access-Control-Request-Method", test.method, "Access-Control-Request-Headers", test.headers)
			origin, maxAge, headers := "", "", ""
			if test.allowed {
				origin, maxAge, headers = test.origin, "7200", test.headers
				if test.options.Origins[0] == "*" {
					origin = "*"
				}
			}
			if *reached != 0 || got.Get("Access-Control-Allow-Origin") != origin || got.Get("Access-Control-Max-Age") != maxAge ||
				got.Get("Access-Control-Allow-Headers") != headers || got.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("it reached the handler %d times; %v", *reached, got)
			}
			if vary := strings.Join(got.Values("Vary"), ","); !strings.Contains(vary, "Origin") || !strings.Contains(vary, "Access-Control-Request-Headers") {
				t.Errorf("caches are told %q", vary)
			}
		})
	}
}

func TestPagesReadWhatIsTheirs(t *testing.T) {
	url, reached := serve(t, &cors.Options{Origins: []string{"https://app.example.com"}, Credentials: true, ResponseHeaders: []string{"x-echo-a", "x-trailer-a"}})
	got := send(t, http.MethodPost, url, "Origin", "https://app.example.com", "Content-Type", "application/json", "X-Echo-A", "1")
	exposed := strings.Split(got.Get("Access-Control-Expose-Headers"), ", ")
	for _, want := range []string{"Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin", "X-Echo-A", "Trailer-X-Echo-A", "X-Trailer-A", "Trailer-X-Trailer-A"} {
		if !slices.Contains(exposed, want) {
			t.Errorf("%s is not exposed: %s", want, exposed)
		}
	}
	if *reached != 1 || got.Get("Trailer-X-Trailer-A") != "1" || got.Get("Access-Control-Allow-Origin") != "https://app.example.com" ||
		got.Get("Access-Control-Allow-Credentials") != "true" || !slices.Contains(got.Values("Vary"), "Origin") {
		t.Errorf("got %v", got)
	}
	got = send(t, http.MethodPost, url, "Origin", "https://evil.example.com", "Content-Type", "application/json")
	if *reached != 2 || got.Get("Access-Control-Allow-Origin") != "" || got.Get("Access-Control-Expose-Headers") != "" || !slices.Contains(got.Values("Vary"), "Origin") {
		t.Errorf("another origin: %v", got)
	}
	if got = send(t, http.MethodPost, url, "Content-Type", "application/json"); *reached != 3 || !slices.Contains(got.Values("Vary"), "Origin") {
		t.Errorf("no origin: %v", got)
	}
}

func TestMaxAge(t *testing.T) {
	for maxAge, want := range map[time.Duration]string{0: "7200", time.Minute: "60", -1 * time.Second: "0"} {
		url, _ := serve(t, &cors.Options{Origins: []string{"*"}, MaxAge: maxAge})
		got := send(t, http.MethodOptions, url, "Origin", "https://a.b", "Access-Control-Request-Method", "POST")
		if got := got.Get("Access-Control-Max-Age"); got != want {
			t.Errorf("%v: got %q, want %q", maxAge, got, want)
		}
	}
}

func TestBadConfigurationIsRefused(t *testing.T) {
	refused := func(o cors.Options, named string) {
		t.Helper()
		if _, err := cors.New(&o); err == nil || !strings.Contains(err.Error(), named) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	for _, origin := range []string{
		"", "null", "example.com", "//example.com", "https://", "https://example.com/", "https://example.com/path", "https://example.com?", "https://example.com?q",
		"https://example.com#", "https://user@example.com", "https://example.com:", "https://:8080", "https://example.com:x", "https://example.com:443",
		"http://example.com:80", "https://münchen.example", "https://a b.example", "https://a,https://b", " https://example.com", "https:example.com",
		"https://*", "https://*.com", "https://*.co.uk", "https://*.github.io", "https://*.localhost", "https://a*.example.com", "https://a.*.example.com",
		"https://*.*.example.com", "https://example.*", "http://localhost:*", "*://example.com", "https://*example.com", "https://*.", "https://[::1",
		"https://*.com.", "https://*.github.io.", "https://*.CO.UK", "https://example.com:0443", "https://example.com:99999", "https://example.com:0",
	} {
		refused(cors.Options{Origins: []string{"https://fine.example.com", origin}}, fmt.Sprintf("%q", origin))
	}
	refused(cors.Options{Origins: []string{"*"}, Credentials: true}, "Credentials")
	refused(cors.Options{Origins: []string{"https://example.com", "*"}}, "beside others")
	refused(cors.Options{RequestHeaders: []string{"*"}}, `"*"`)
	refused(cors.Options{RequestHeaders: []string{"a b"}}, `"a b"`)
	refused(cors.Options{ResponseHeaders: []string{"x-a, x-b"}}, `"x-a, x-b"`)
	refused(cors.Options{ResponseHeaders: []string{""}}, "empty")
	refused(cors.Options{MaxAge: time.Millisecond}, "MaxAge")
	for _, origin := range []string{
		"https://example.com", "HTTPS://Example.com", "http://127.0.0.1:8080", "http://[::1]:3000", "capacitor://localhost", "https://*.preview.example.com:8443",
		"https://xn--mnchen-3ya.example", "https://*.corp.internal",
	} {
		if _, err := cors.New(&cors.Options{Origins: []string{origin}, Credentials: true}); err != nil {
			t.Error(err)
		}
	}
	if _, err := cors.New(nil); err != nil {
		t.Error(err)
	}
}
