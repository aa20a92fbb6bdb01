package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/internal/dummy"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
)

// TestMain makes the program itself of a test binary that is asked to be it.
func TestMain(m *testing.M) {
	if os.Getenv("ECHO_SERVER_TEST_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}

// output is what a running program has written.
type output struct {
	mu    sync.Mutex
	text  bytes.Buffer
	once  sync.Once
	begun chan struct{}
}

func newOutput() *output { return &output{begun: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer o.once.Do(func() { close(o.begun) })
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// program is the program running in this process.
type program struct {
	stdout, stderr    *output
	url, host         string // of the connect-go server
	grpcURL, grpcHost string // of the grpc-go server
	webURL            string // of the grpc-go server, for browsers
	stop              func() int
}

// launch runs the program on free ports.
func launch(t *testing.T, args ...string) *program {
	t.Helper()
	p := &program{stdout: newOutput(), stderr: newOutput()}
	ctx, cancel := context.WithCancel(context.Background())
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, append([]string{"-addr", "localhost:0", "-grpc-addr", "localhost:0", "-grpc-web-addr", "localhost:0"}, args...), p.stdout, p.stderr)
	}()
	p.stop = sync.OnceValue(func() int {
		cancel()
		return <-code
	})
	t.Cleanup(func() { p.stop() })
	select {
	case <-p.stdout.begun:
	case c := <-code:
		t.Fatalf("exit code %d: %s", c, p.stderr)
	}
	p.url, p.grpcURL = addresses(t, p.stdout.String())
	_, p.host, _ = strings.Cut(p.url, "//")
	_, p.grpcHost, _ = strings.Cut(p.grpcURL, "//")
	_, p.webURL, _ = strings.Cut(p.stdout.String(), ") at ")
	p.webURL, _, _ = strings.Cut(p.webURL, "\n")
	return p
}

func addresses(t *testing.T, text string) (connectURL, grpcURL string) {
	t.Helper()
	found := regexp.MustCompile(`\) on (https?://\S+)`).FindAllStringSubmatch(text, -1)
	if len(found) != 2 {
		t.Fatalf("no two addresses in %s", text)
	}
	return found[0][1], found[1][1]
}

// post calls Execute as curl does.
func post(t *testing.T, client *http.Client, url, input string) (status int, body string) {
	t.Helper()
	res, err := client.Post(url+dummyv1connect.DummyServiceExecuteProcedure, "application/json", strings.NewReader(`{"input":"`+input+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(data)
}

func dial(t *testing.T, host string, security credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(host, grpc.WithTransportCredentials(security), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestBothServersAnswerWithHealthAndReflectionAndOneChain(t *testing.T) {
	p := launch(t)
	client := &http.Client{Transport: &http.Transport{}}
	if code, body := post(t, client, p.url, "hello"); code != http.StatusOK || body != `{"output":"hello"}` {
		t.Errorf("HTTP/1.1: %d %s", code, body)
	}
	for _, input := range []string{"plain", "panic"} {
		if code, body := post(t, client, p.url, input); code != http.StatusInternalServerError || strings.Contains(body, "hunter2") {
			t.Errorf("HTTP/1.1: %d %s", code, body)
		}
	}
	for server, host := range map[string]string{"connect-go": p.host, "grpc-go": p.grpcHost} {
		conn := dial(t, host, insecure.NewCredentials())
		for _, input := range []string{"plain", "panic"} { // the process survives
			if _, err := dummyv1.NewDummyServiceClient(conn).Execute(t.Context(), request(input)); err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: %s gave %v", server, input, err)
			}
		}
		for _, service := range []string{"", dummyv1connect.DummyServiceName} {
			health, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
			if err != nil || health.GetStatus() != healthv1.HealthCheckResponse_SERVING {
				t.Errorf("%s: health of %q: %v, %v", server, service, health, err)
			}
		}
		stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		err = stream.Send(&reflectionv1.ServerReflectionRequest{
			MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: dummyv1connect.DummyServiceName},
		})
		if err != nil {
			t.Fatal(err)
		}
		if res, err := stream.Recv(); err != nil || len(res.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
			t.Errorf("%s: reflection: %v, %v", server, res, err)
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: reflection ended with %v", server, err)
		}
	}
	if code := p.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	logged := p.stderr.String()
	for _, protocol := range []string{"protocol=connect", "protocol=grpc"} {
		if !regexp.MustCompile(`level=ERROR msg=rpc \S+ rpc.method=weft.dummy.v1.DummyService/Execute side=server shape=unary ` + protocol +
			` network.peer.address=127.0.0.1 network.peer.port=\d+ rpc.response.status_code=UNKNOWN duration=\S+ requests=1 responses=0 ` +
			`error.type=UNKNOWN error.message="unknown error" error=.*hunter2.* request_id=[-0-9a-f]{36} client.address=127.0.0.1`).MatchString(logged) {
			t.Errorf("%s is not in the log:\n%s", protocol, logged)
		}
	}
	for _, line := range []string{"rpc.method=grpc.health.v1.Health/Check", "rpc.method=grpc.reflection.v1.ServerReflection/", "msg=panic", "msg=stopping"} {
		if !strings.Contains(logged, line) {
			t.Errorf("%s is not in the log:\n%s", line, logged)
		}
	}
}

func TestOnlyWhoHasTheTokenIsEchoed(t *testing.T) {
	p := launch(t, "-auth-token", "hunter2-token", "-trusted-proxies", "127.0.0.1")
	if strings.Contains(p.stdout.String(), "hunter2") {
		t.Errorf("the token is printed:\n%s", p.stdout)
	}
	client := &http.Client{Transport: &http.Transport{}}
	if code, body := post(t, client, p.url, "hello"); code != http.StatusUnauthorized || strings.Contains(body, "hello") {
		t.Errorf("without the token: %d %s", code, body)
	}
	for server, host := range map[string]string{"connect-go": p.host, "grpc-go": p.grpcHost} {
		conn := dial(t, host, insecure.NewCredentials())
		echo := func(token string) (header metadata.MD, err error) {
			ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token,
				"x-request-id", "r-"+server, "x-forwarded-for", "6.6.6.6", "x-forwarded-for", "192.0.2.7")
			_, err = dummyv1.NewDummyServiceClient(conn).Execute(ctx, request("hello"), grpc.Header(&header))
			return header, err
		}
		if header, err := echo("hunter2-token"); err != nil || !slices.Equal(header["x-request-id"], []string{"r-" + server}) {
			t.Errorf("%s: with the token: %v, %v", server, header, err)
		}
		header, err := echo("wrong")
		if core.Code(status.Code(err)) != core.CodeUnauthenticated || !strings.HasPrefix(strings.Join(header["www-authenticate"], ""), `Bearer realm="echo-server"`) {
			t.Errorf("%s: with another: %v, %v", server, header, err)
		}
		if _, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
			t.Errorf("%s: health is not public: %v", server, err)
		}
	}
	p.stop()
	logged := p.stderr.String()
	for _, server := range []string{"connect-go", "grpc-go"} {
		for _, want := range []string{
			`status_code=OK .*request_id=r-` + server + ` client.address=192.0.2.7 user.id=caller`,
			`level=INFO .*status_code=UNAUTHENTICATED .*request_id=r-` + server + ` client.address=192.0.2.7`,
		} {
			if !regexp.MustCompile(want).MatchString(logged) {
				t.Errorf("%s is not in the log:\n%s", want, logged)
			}
		}
	}
	if strings.Contains(logged, "hunter2") {
		t.Errorf("the token is in the log:\n%s", logged)
	}
}

func TestAMessageOverTheLimitIsRefusedOnBoth(t *testing.T) {
	p := launch(t)
	for server, host := range map[string]string{"connect-go": p.host, "grpc-go": p.grpcHost} {
		client := dummyv1.NewDummyServiceClient(dial(t, host, insecure.NewCredentials()))
		if _, err := client.Execute(t.Context(), request(strings.Repeat("x", maxMessage-10))); err != nil {
			t.Errorf("%s: below the limit: %v", server, err)
		}
		_, err := client.Execute(t.Context(), request(strings.Repeat("x", maxMessage)))
		if core.Code(status.Code(err)) != core.CodeResourceExhausted {
			t.Errorf("%s: above the limit: %v", server, err)
		}
	}
}

func TestWhatIsWrongAtTheStartIsOneLineAndExitCode2(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for name, args := range map[string][]string{
		"address already in use":  {"-addr", busy.Addr().String(), "-grpc-addr", "127.0.0.1:0"},
		"-grpc-addr":              {"-addr", "127.0.0.1:0", "-grpc-addr", busy.Addr().String()},
		"-grpc-web-addr":          {"-addr", "127.0.0.1:0", "-grpc-addr", "127.0.0.1:0", "-grpc-web-addr", busy.Addr().String()},
		"-addr":                   {"-addr", "nonsense"},
		"-what":                   {"-what"},
		`unexpected argument "x"`: {"x"},
		"go together":             {"-tls-cert", "cert.pem"},
		"no such file":            {"-tls-cert", "no.pem", "-tls-key", "no.pem"},
		"no other flag":           {"-demo", "-addr", "localhost:0"},
		"everybody would know it": {"-auth-token", ""},
		"a newline":               {"-auth-token", "secret\n"},
		"do you mean":             {"-trusted-proxies", "10.0.0.0/8,10.0.0.1/8"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), args, &stdout, &stderr)
		if code != 2 || stdout.Len() > 0 || strings.Count(stderr.String(), "\n") != 1 ||
			!strings.HasPrefix(stderr.String(), "echo-server: ") || !strings.Contains(stderr.String(), name) {
			t.Errorf("%q: exit code %d, %q, %q, want one line that says %q", args, code, stdout.String(), stderr.String(), name)
		}
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"-h"}, &stdout, &stderr); code != 0 || stderr.Len() > 0 || !strings.Contains(stdout.String(), "-grpc-addr") {
		t.Errorf("-h: exit code %d, %q, %q", code, stdout.String(), stderr.String())
	}
}

// startEntered starts both servers, and tells when a call has entered one.
func startEntered(t *testing.T) (s *servers, paths []path, entered chan struct{}) {
	t.Helper()
	entered = make(chan struct{}, 10)
	c := demoConfig()
	tell := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		entered <- struct{}{}
		return next(ctx, call)
	})
	c.connectChain, c.grpcChain = append(c.connectChain, tell), append(c.grpcChain, tell)
	s, err := start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	paths, err = newPaths(s)
	if err != nil {
		t.Fatal(err)
	}
	http1 := newConnectPath("Connect", "connect-go over HTTP/1.1", s.host)
	http1.call = connectCall(dummyv1connect.NewDummyServiceClient(&http.Client{Transport: &http.Transport{}}, "http://"+s.host))
	return s, append(paths, http1), entered
}

func TestStoppingLetsRunningCallsFinish(t *testing.T) {
	s, paths, entered := startEntered(t)
	answers := make([]answer, len(paths))
	var calls sync.WaitGroup
	for i, p := range paths {
		calls.Go(func() {
			ctx := context.WithValue(context.Background(), observationKey{}, &observation{})
			answers[i] = p.call(ctx, core.ShapeUnary, []string{"sleep:200ms"})
		})
		<-entered
	}
	if !s.stop(drain) {
		t.Error("calls were cut off")
	}
	calls.Wait()
	for i, a := range answers {
		if a.code != core.CodeOK || !slices.Equal(a.outputs, []string{"sleep:200ms"}) {
			t.Errorf("%s %s %s: %s", paths[i].client, paths[i].protocol, paths[i].server, a.text)
		}
	}
}

func TestStoppingCutsOffWhatTakesTooLong(t *testing.T) {
	s, paths, entered := startEntered(t)
	answers := make([]answer, len(paths))
	var calls sync.WaitGroup
	for i, p := range paths {
		calls.Go(func() {
			ctx := context.WithValue(context.Background(), observationKey{}, &observation{})
			answers[i] = p.call(ctx, core.ShapeUnary, []string{"sleep:1h"})
		})
		<-entered
	}
	if s.stop(10 * time.Millisecond) {
		t.Error("nothing was cut off")
	}
	calls.Wait()
	for i, a := range answers {
		if a.code == core.CodeOK {
			t.Errorf("%s %s %s: %s", paths[i].client, paths[i].protocol, paths[i].server, a.text)
		}
	}
}

func TestASignalStopsTheProgramAndRunningStreamsFinish(t *testing.T) {
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		cmd := exec.Command(os.Args[0], "-addr", "127.0.0.1:0", "-grpc-addr", "127.0.0.1:0", "-grpc-web-addr", "127.0.0.1:0")
		cmd.Env = append(os.Environ(), "ECHO_SERVER_TEST_MAIN=1")
		stdout := newOutput()
		cmd.Stdout = stdout
		logged, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-stdout.begun
		_, url := addresses(t, stdout.String())
		client := dummyv1.NewDummyServiceClient(dial(t, strings.TrimPrefix(url, "http://"), insecure.NewCredentials()))
		stream, err := client.ExecuteClientServerStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		echo := func(input string) {
			t.Helper()
			if err := stream.Send(request(input)); err != nil {
				t.Fatal(err)
			}
			if res, err := stream.Recv(); err != nil || res.GetOutput() != input {
				t.Fatalf("%v: got %v, %v", signal, res, err)
			}
		}
		echo("before")
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(logged)
		for line := ""; !strings.Contains(line, "msg=stopping"); {
			if line, err = lines.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		echo("after")
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("%v: the stream ended with %v", signal, err)
		}
		rest, _ := io.ReadAll(lines)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v\n%s", signal, err, rest)
		}
	}
}

func TestTheDemoIsGreenAndCallsEverySpecialInput(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"-demo"}, &stdout, &stderr); code != 0 || stderr.Len() > 0 ||
		strings.Contains(stdout.String(), mark) || strings.Contains(stdout.String(), "\033") {
		t.Errorf("exit code %d\n%s%s", code, stdout.String(), stderr.String())
	}
	for key := range dummy.DefaultCases() {
		if !strings.Contains(stdout.String(), "  "+key) {
			t.Errorf("%s is not in the table", key)
		}
	}
}

func TestTheDemoMarksACellThatDiffers(t *testing.T) {
	c := demoConfig()
	// Only one stack has an interceptor that says something else.
	c.grpcChain = append(c.grpcChain, core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		if call.Shape() == core.ShapeServerStream {
			return context.Canceled
		}
		return next(ctx, call)
	}))
	var stdout, stderr bytes.Buffer
	code := demo(t.Context(), c, &stdout, &stderr)
	if want := regexp.MustCompile(`(?m)^  plain +unknown( +✓){4}( +✗ canceled "the call was canceled"){4}$`); code != 1 || !want.MatchString(stdout.String()) {
		t.Errorf("exit code %d\n%s%s", code, stdout.String(), stderr.String())
	}
}

func TestColorIsForMarkedCellsOnATerminalOnly(t *testing.T) {
	table := newTable([]path{{client: "a"}, {client: "b"}})
	table.add("x", "ok", []string{"ok", "bad"})
	var with, without bytes.Buffer
	table.print(&with, true)
	table.print(&without, false)
	if !strings.Contains(with.String(), "✓  \033[1;31m✗ bad\033[m\n") || !strings.Contains(without.String(), "✓  ✗ bad\n") {
		t.Errorf("got %q and %q", with.String(), without.String())
	}
	if terminal(&with) {
		t.Error("a buffer is no terminal")
	}
}

// writeCert writes a certificate for the names, and its key.
func writeCert(t *testing.T, names ...string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "echo-server test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		DNSNames:     names,
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "it's a folder")
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func TestTLSOnBothServers(t *testing.T) {
	certFile, keyFile := writeCert(t, "localhost")
	p := launch(t, "-tls-cert", certFile, "-tls-key", keyFile)
	data, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(data)
	security := &tls.Config{RootCAs: roots}
	for _, http2 := range []bool{false, true} {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(!http2)
		protocols.SetHTTP2(http2)
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: security, Protocols: protocols}}
		if code, body := post(t, client, p.url, "hello"); code != http.StatusOK || body != `{"output":"hello"}` {
			t.Errorf("HTTP/2 %v: %d %s", http2, code, body)
		}
	}
	for _, host := range []string{p.host, p.grpcHost} {
		client := dummyv1.NewDummyServiceClient(dial(t, host, credentials.NewTLS(security)))
		if res, err := client.Execute(t.Context(), request("hello")); err != nil || res.GetOutput() != "hello" {
			t.Errorf("%s: %v, %v", host, res, err)
		}
	}
}

func TestThePrintedLinesWork(t *testing.T) {
	ownCert, ownKey := writeCert(t, "localhost")
	otherCert, otherKey := writeCert(t, "example.com")
	for name, args := range map[string][]string{
		"plain":                nil,
		"every address":        {"-addr", ":0", "-grpc-addr", "0.0.0.0:0", "-grpc-web-addr", "[::]:0"},
		"TLS":                  {"-tls-cert", ownCert, "-tls-key", ownKey},
		"TLS for another name": {"-tls-cert", otherCert, "-tls-key", otherKey},
		"with a token":         {"-auth-token", "its-a-token"},
	} {
		t.Run(name, func(t *testing.T) {
			p := launch(t, args...)
			lines := regexp.MustCompile(`(?m)^  ((curl|grpcurl|buf) .*)$`).FindAllStringSubmatch(p.stdout.String(), -1)
			if len(lines) != 13 {
				t.Fatalf("%d lines in %s", len(lines), p.stdout)
			}
			if trusted := strings.Contains(p.stdout.String(), "cacert"); trusted != (name == "TLS") {
				t.Errorf("whether the certificate is trusted is %v", trusted)
			}
			want := regexp.MustCompile(`"output": ?"(h|metadata)|weft\.dummy\.v1\.DummyService|"SERVING"`)
			for _, line := range lines {
				t.Run(line[1], func(t *testing.T) {
					if _, err := exec.LookPath(line[2]); err != nil {
						if os.Getenv("CI") != "" {
							t.Fatal(err)
						}
						t.Skipf("%s is not installed (tools/setup.sh brings it; make puts it on the PATH)", line[2])
					}
					cmd := exec.CommandContext(t.Context(), "sh", "-c", line[1])
					cmd.Env = append(os.Environ(), tokenVariable+"=its-a-token")
					out, err := cmd.CombinedOutput()
					if err != nil || !want.Match(out) {
						t.Errorf("%v\n%s", err, out)
					}
				})
			}
		})
	}
}
