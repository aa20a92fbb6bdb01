package clients

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
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

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	_ "github.com/rpcweft/weft/connectx" // what the echo server is made of, so that go test runs again when it has changed
	"github.com/rpcweft/weft/core"
	_ "github.com/rpcweft/weft/grpcx"
	_ "github.com/rpcweft/weft/internal/dummy"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
)

const patience = 2 * time.Minute // for a client and all its calls

const (
	web = "grpc-go for browsers"
	get = "connect by GET"
)

// path is a client and the way that it takes to one of the servers.
type path struct {
	client   string
	server   string // connect-go, grpc-go, or grpc-go for browsers
	protocol string
	http     string // 1.1 or 2
	codec    string
	missing  func() string // what the client needs and does not find
	run      func(ctx context.Context, p *path, host string, calls []call) ([]result, string, error)
	untimed  bool // it cannot limit the time of a call
	unary    bool // it has no streams
	lossy    bool // it drops messages when it hears of a failure before it has handed them out
}

func (p *path) String() string {
	return strings.Join([]string{p.client, p.protocol, p.codec, "HTTP", p.http, "to", p.server}, " ")
}

func paths() []*path {
	grpcurl := &path{client: "grpcurl", missing: command("grpcurl"), run: eachAlone(grpcurl)}
	buf := &path{client: "buf curl", missing: command("buf"), run: eachAlone(bufCurl), untimed: true}
	curlGet := &path{client: "curl", missing: command("curl"), run: eachAlone(curl), unary: true}
	curl := &path{client: "curl", missing: command("curl"), run: eachAlone(curl)}
	grpcio := &path{client: "grpcio", missing: pythonGRPC, run: program(func() []string { return []string{python(), "grpc_client.py"} })}
	grpcJS := &path{client: "grpc-js", missing: nodePackages, run: program(func() []string { return []string{"node", "grpc_js.mjs"} }), lossy: true}
	connectNode := &path{client: "connect-node", missing: nodePackages, run: program(func() []string { return []string{"node", "connect_node.mjs"} })}
	by := func(client *path, protocol, codec, http, server string) *path {
		p := *client
		p.protocol, p.codec, p.http, p.server = protocol, codec, http, server
		return &p
	}
	const toConnect, toGRPC, toWeb = "connect-go", "grpc-go", web
	return []*path{
		by(grpcurl, "grpc", "proto", "2", toConnect),
		by(grpcurl, "grpc", "proto", "2", toGRPC),
		by(buf, "connect", "proto", "2", toConnect),
		by(buf, "grpcweb", "proto", "2", toConnect),
		by(buf, "grpc", "proto", "2", toConnect),
		by(buf, "grpc", "proto", "2", toGRPC),
		by(curl, "connect", "json", "1.1", toConnect),
		by(curl, "connect", "json", "2", toConnect),
		by(curlGet, get, "json", "1.1", toConnect),
		by(grpcio, "grpc", "proto", "2", toConnect),
		by(grpcio, "grpc", "proto", "2", toGRPC),
		by(grpcJS, "grpc", "proto", "2", toConnect),
		by(grpcJS, "grpc", "proto", "2", toGRPC),
		by(connectNode, "connect", "proto", "1.1", toConnect),
		by(connectNode, "connect", "proto", "2", toConnect),
		by(connectNode, "connect", "json", "2", toConnect),
		by(connectNode, "grpcweb", "proto", "1.1", toConnect),
		by(connectNode, "grpcweb", "proto", "2", toConnect),
		by(connectNode, "grpcweb", "json", "2", toConnect),
		by(connectNode, "grpc", "proto", "2", toConnect),
		by(connectNode, "grpc", "json", "2", toConnect),
		by(connectNode, "grpc", "proto", "2", toGRPC),
		by(grpcurl, "grpc", "proto", "2", toWeb),
		by(buf, "connect", "proto", "2", toWeb),
		by(buf, "grpcweb", "proto", "2", toWeb),
		by(curl, "connect", "json", "1.1", toWeb),
		by(connectNode, "connect", "json", "2", toWeb),
		by(connectNode, "connect", "proto", "1.1", toWeb),
		by(connectNode, "grpcweb", "proto", "1.1", toWeb),
		by(connectNode, "grpcweb", "json", "2", toWeb),
		by(connectNode, "grpc", "proto", "2", toWeb),
	}
}

func TestClients(t *testing.T) {
	if testing.Short() {
		t.Skip("some of the clients are slow")
	}
	hosts := serve(t)
	total := 0
	for _, p := range paths() {
		t.Run(p.String(), func(t *testing.T) {
			if missing := p.missing(); missing != "" {
				if os.Getenv("CI") != "" {
					t.Fatal(missing)
				}
				t.Skip(missing)
			}
			var calls []call
			for _, c := range table() {
				if c.Shape == "bidi_stream" && p.http == "1.1" || c.TimeoutMS > 0 && p.untimed || p.unary && c.Shape != "unary" {
					continue
				}
				calls = append(calls, c)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			begin := time.Now()
			results, output, err := p.run(ctx, p, hosts[p.server], calls)
			if err != nil || len(results) != len(calls) {
				t.Fatalf("%d results for %d calls, %v\n%s", len(results), len(calls), err, output)
			}
			for i := range calls {
				p.forgive(&calls[i], &results[i])
				for _, complaint := range calls[i].complaints(&results[i]) {
					t.Errorf("%s: %s", calls[i].Name, complaint)
				}
			}
			if strings.Contains(output, "hunter2") {
				t.Errorf("a secret reached the client:\n%s", output)
			}
			t.Logf("%d calls in %s", len(calls), time.Since(begin).Round(10*time.Millisecond))
			total += len(calls)
		})
	}
	t.Logf("%d calls", total)
	if os.Getenv("CI") != "" && total < 1760 {
		t.Errorf("only %d calls", total)
	}
}

// forgive makes of what has nothing to do with interceptors what the table wants.
func (p *path) forgive(c *call, r *result) {
	if p.lossy && r.Code != "ok" && len(r.Outputs) < len(c.want.outputs) && slices.Equal(r.Outputs, c.want.outputs[:len(r.Outputs)]) {
		r.Outputs = c.want.outputs
	}
	// The transport of grpc-go ends a call at its deadline by RST_STREAM with CANCEL, which clients take for a
	// cancellation when it comes before their own timer.
	if p.server != "connect-go" && r.Code == "canceled" && c.want.code == core.CodeDeadlineExceeded {
		r.Code = c.want.code.String()
	}
}

// serve builds and starts the echo server, and returns the hosts of both servers by their stacks.
func serve(t *testing.T) map[string]string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "echo-server")
	args := []string{"build", "-o", file}
	if race {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "./cmd/echo-server")...)
	build.Dir = filepath.Join("..", "..") // with the versions of its own module
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	cmd := exec.Command(file, "-addr", "127.0.0.1:0", "-grpc-addr", "127.0.0.1:0", "-grpc-web-addr", "127.0.0.1:0")
	var problems bytes.Buffer
	cmd.Stderr = &problems
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		defer time.AfterFunc(patience, func() { _ = cmd.Process.Kill() }).Stop()
		if err := cmd.Wait(); err != nil || strings.Contains(problems.String(), "DATA RACE") {
			t.Errorf("the echo server: %v\n%s", err, problems.String())
		}
	})
	hosts := map[string]string{}
	heading := regexp.MustCompile(`(?m)^(connect-go|grpc-go|grpc-go for browsers) \(.*\) (?:on|at) http://(127\.0\.0\.1:\d+)$`)
	defer time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() }).Stop()
	var printed []byte
	for buffer := make([]byte, 1<<12); len(hosts) < 3; {
		n, err := stdout.Read(buffer)
		printed = append(printed, buffer[:n]...)
		for _, match := range heading.FindAllStringSubmatch(string(printed), -1) {
			hosts[match[1]] = match[2]
		}
		if err != nil {
			t.Fatalf("the echo server did not start: %v\n%s", err, printed)
		}
	}
	return hosts
}

// The tools.

func command(name string) func() string {
	return func() string {
		if _, err := exec.LookPath(name); err != nil {
			return name + " is not installed: tools/setup.sh brings it, and make puts it on the PATH"
		}
		return ""
	}
}

var nodePackages = func() string {
	if _, err := os.Stat("node_modules"); err != nil {
		return "the packages of package-lock.json are not installed: run tools/setup.sh"
	}
	return command("node")()
}

// python returns an interpreter that has grpcio. Debian's does, though it need not be the first on the PATH.
var python = sync.OnceValue(func() string {
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(name, "-c", "import grpc").Run() == nil {
			return name
		}
	}
	return ""
})

var pythonGRPC = func() string {
	if python() == "" {
		return "grpcio for Python is not installed: it is Debian's package python3-grpcio"
	}
	return ""
}

// program runs a program that reads a table and prints the results.
func program(args func() []string) func(context.Context, *path, string, []call) ([]result, string, error) {
	return func(ctx context.Context, p *path, host string, calls []call) ([]result, string, error) {
		descriptors, err := proto.Marshal(&descriptorpb.FileDescriptorSet{
			File: []*descriptorpb.FileDescriptorProto{protodesc.ToFileDescriptorProto(dummyv1.File_weft_dummy_v1_dummy_proto)},
		})
		if err != nil {
			return nil, "", err
		}
		input, err := json.Marshal(map[string]any{
			"host": host, "protocol": p.protocol, "http": p.http, "codec": p.codec, "cases": calls,
			"descriptors": base64.StdEncoding.EncodeToString(descriptors),
			"proto":       filepath.Join("..", "..", "internal", "dummy", "proto", "weft", "dummy", "v1", "dummy.proto"),
		})
		if err != nil {
			return nil, "", err
		}
		args := args()
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Stdin = bytes.NewReader(input)
		var out, problems bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &problems
		if err := cmd.Run(); err != nil {
			return nil, out.String() + problems.String(), err
		}
		var results []result
		err = json.Unmarshal(out.Bytes(), &results)
		return results, out.String() + problems.String(), err
	}
}

// eachAlone runs a tool for each call, a few at a time.
func eachAlone(
	run func(ctx context.Context, p *path, host string, c *call) (result, string, error),
) func(context.Context, *path, string, []call) ([]result, string, error) {
	return func(ctx context.Context, p *path, host string, calls []call) ([]result, string, error) {
		results := make([]result, len(calls))
		outputs := make([]string, len(calls))
		var first error
		var mu sync.Mutex
		var running sync.WaitGroup
		slots := make(chan struct{}, 4)
		for i := range calls {
			slots <- struct{}{}
			running.Go(func() {
				defer func() { <-slots }()
				var err error
				if results[i], outputs[i], err = run(ctx, p, host, &calls[i]); err != nil {
					mu.Lock()
					defer mu.Unlock()
					if first == nil {
						first = fmt.Errorf("%s: %w\n%s", calls[i].Name, err, outputs[i])
					}
				}
			})
		}
		running.Wait()
		if first != nil {
			return nil, "", first
		}
		return results, strings.Join(outputs, ""), nil
	}
}
