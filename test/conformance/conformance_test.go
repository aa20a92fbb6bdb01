package conformance

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/rpcweft/weft/connectx" // with grpcx, so that go test runs again when they have changed
	_ "github.com/rpcweft/weft/grpcx"
	_ "github.com/rpcweft/weft/grpcx/web"
	"github.com/rpcweft/weft/test/conformance/internal/chain"
	"github.com/rpcweft/weft/test/conformance/internal/suite"
)

// The features of each stack, in the suite's words.
const (
	connectFeatures = `features:
  versions: [HTTP_VERSION_1, HTTP_VERSION_2]
  protocols: [PROTOCOL_CONNECT, PROTOCOL_GRPC, PROTOCOL_GRPC_WEB]
  codecs: [CODEC_PROTO, CODEC_JSON]
  compressions: [COMPRESSION_IDENTITY, COMPRESSION_GZIP]
  supportsTlsClientCerts: true
`
	grpcFeatures = `features:
  versions: [HTTP_VERSION_2]
  protocols: [PROTOCOL_GRPC]
  codecs: [CODEC_PROTO]
  compressions: [COMPRESSION_IDENTITY, COMPRESSION_GZIP]
  supportsTlsClientCerts: true
`
	// Enough to notice a fault.
	smallFeatures = `features:
  versions: [HTTP_VERSION_2]
  protocols: [PROTOCOL_GRPC]
  codecs: [CODEC_PROTO]
  compressions: [COMPRESSION_IDENTITY]
  supportsTls: false
`
)

// What grpc-go is known to do otherwise, with and without interceptors: it reports a wrong number of messages under
// another code than the suite wants. The suite's own lists for its own grpc-go programs are the same.
var (
	grpcServerFails = []string{
		"**/unary/multiple-requests", "**/unary/no-request", "**/server-stream/multiple-requests", "**/server-stream/no-request",
	}
	grpcClientFails = []string{
		"**/unary/multiple-responses", "**/unary/ok-but-no-response",
		"**/client-stream/multiple-responses", "**/client-stream/ok-but-no-response",
	}
)

// The counts are the same then.
var bare = flag.Bool("bare", false, "have the suite judge the stacks alone, without Weft")

// run is one run of the suite.
type run struct {
	mode           string
	client, server string // the stacks of the programs under test
	attempts       bool   // whether the client makes an attempt of each call
	fault          string
	features       string
	failing        []string      // patterns of cases that must fail
	only           []string      // patterns of cases to run; none is all
	limit          time.Duration // a run that takes longer hangs
	program        *programs
}

// outcome is what the suite says.
type outcome struct {
	cases, passed, failed, expected, unrun int

	hung           bool
	output         string
	client, server chain.Report
}

const limit = 4 * time.Minute // the slowest takes 25 s where nothing else runs, twice that under the race detector

func TestServer(t *testing.T) {
	p := build(t)
	t.Run("connect", func(t *testing.T) {
		run{mode: "server", server: "connect", features: connectFeatures, program: p}.pass(t, 3640, 0)
	})
	t.Run("grpc", func(t *testing.T) {
		run{mode: "server", server: "grpc", features: grpcFeatures, failing: grpcServerFails, program: p}.pass(t, 562, 8)
	})
	t.Run("web", func(t *testing.T) {
		run{mode: "server", server: "web", features: connectFeatures, failing: grpcServerFails, program: p}.pass(t, 3608, 32)
	})
}

func TestClient(t *testing.T) {
	p := build(t)
	t.Run("connect", func(t *testing.T) {
		run{mode: "client", client: "connect", features: connectFeatures, program: p}.pass(t, 4638, 0)
	})
	t.Run("grpc", func(t *testing.T) {
		run{mode: "client", client: "grpc", features: grpcFeatures, failing: grpcClientFails, program: p}.pass(t, 638, 8)
	})
}

// A call in an attempt is the same to the application.
func TestClientWithAttempts(t *testing.T) {
	if *bare {
		t.Skip("an attempt is Weft's")
	}
	p := build(t)
	t.Run("connect", func(t *testing.T) {
		run{mode: "client", client: "connect", attempts: true, features: connectFeatures, program: p}.pass(t, 4638, 0)
	})
	t.Run("grpc", func(t *testing.T) {
		run{mode: "client", client: "grpc", attempts: true, features: grpcFeatures, failing: grpcClientFails, program: p}.pass(t, 638, 8)
	})
}

func TestBoth(t *testing.T) {
	p := build(t)
	for _, pair := range []struct {
		client, server, features string
		passed                   int
	}{
		{"connect", "connect", connectFeatures, 2796},
		{"grpc", "grpc", grpcFeatures, 306},
		{"connect", "grpc", grpcFeatures, 306},
		{"grpc", "connect", grpcFeatures, 306},
	} {
		t.Run(pair.client+" to "+pair.server, func(t *testing.T) {
			run{mode: "both", client: pair.client, server: pair.server, features: pair.features, program: p}.pass(t, pair.passed, 0)
		})
	}
}

// Some faults make the suite hang, with cases that take a second otherwise.
const hangLimit = 10 * time.Second

// A few of the many cases that hang with such a fault.
var hanging = []string{"Basic/**/bidi-stream/**"}

// The judge must notice each fault: where it does not, its silence about the adapters says nothing.
func TestTheJudgeNoticesFaults(t *testing.T) {
	if race {
		t.Skip("nothing is learned of it under the race detector")
	}
	if *bare {
		t.Skip("there is nothing to break")
	}
	p := build(t)
	known := map[string]map[string][]string{"server": {"grpc": grpcServerFails}, "client": {"grpc": grpcClientFails}}
	all := []string{chain.NoDetails, chain.OtherEOF, chain.Detached}
	faults := map[string][]string{"server": append(all, chain.NoTrailers, chain.SendsInEnd), "client": append(all, chain.NoHalfClose)}
	for mode, list := range faults {
		for _, stack := range []string{"connect", "grpc"} {
			for _, fault := range list {
				t.Run(strings.Join([]string{mode, stack, fault}, " "), func(t *testing.T) {
					r := run{mode: mode, server: stack, client: stack, fault: fault, features: smallFeatures, program: p, failing: known[mode][stack]}
					if fault == chain.SendsInEnd || fault == chain.NoHalfClose {
						r.only, r.failing, r.limit = hanging, nil, hangLimit
					}
					o := r.start(t)
					t.Logf("%d of %d cases failed, %d did not run, hung: %v", o.failed, o.cases, o.unrun, o.hung)
					if o.failed == 0 && o.unrun == 0 && !o.hung {
						t.Errorf("the fault went unnoticed\n%s", o.output)
					}
				})
			}
		}
	}
}

func TestTheJudgeIsContentWithoutFaults(t *testing.T) {
	if race {
		t.Skip("TestServer and TestClient say more")
	}
	p := build(t)
	for _, mode := range []string{"server", "client"} {
		run{mode: mode, server: "connect", client: "connect", features: smallFeatures, program: p}.pass(t, 198, 0)
		for _, stack := range []string{"connect", "grpc"} {
			run{mode: mode, server: stack, client: stack, features: smallFeatures, only: hanging, program: p}.pass(t, 3, 0)
		}
	}
}

// pass runs the suite and demands at least that many cases that pass, so that a smaller run is noticed, exactly
// the given number that fail as they must, and no other failure.
func (r run) pass(t *testing.T, passed, expected int) {
	t.Helper()
	begin := time.Now()
	o := r.start(t)
	t.Logf("%d cases: %d passed, %d failed as known, %d failed, %d did not run (%s)",
		o.cases, o.passed, o.expected, o.failed, o.unrun, time.Since(begin).Round(100*time.Millisecond))
	if o.hung || o.failed > 0 || o.unrun > 0 || o.passed < passed || o.expected != expected || o.cases != o.passed+o.expected {
		t.Errorf("want %d to pass and %d to fail as known; hung: %v\n%s", passed, expected, o.hung, o.output)
	}
	if r.mode != "server" && !*bare {
		checkReport(t, "client", o.client, r.attempts)
	}
	if r.mode != "client" && !*bare {
		checkReport(t, "server", o.server, false)
	}
}

// checkReport demands that the chain saw the calls, all that it sees of a call, and each end.
func checkReport(t *testing.T, side string, r chain.Report, attempts bool) {
	t.Helper()
	t.Logf("%s: the chain saw %+v", side, r.Inner)
	for _, problem := range r.Problems {
		t.Errorf("%s: %s", side, problem)
	}
	o, i := r.Outer, r.Inner
	if i.Entered == 0 || i.Requests == 0 || i.Responses == 0 || o.Keys == 0 || i.Failed == 0 && i.Entered > 100 {
		t.Errorf("%s: the chain saw nothing of something: %+v", side, r)
	}
	o.Keys, i.Keys = 0, 0
	// A server may end a stream while a message is on its way from the hooks outside of an attempt to those inside.
	if lost := o.Requests - i.Requests; attempts && lost > 0 && lost <= i.Failed {
		o.Requests = i.Requests
	}
	if o != i {
		t.Errorf("%s: the first interceptor saw %+v, the last %+v", side, o, i)
	}
	if i.Entered != i.Left {
		t.Errorf("%s: next returned for %d of %d calls", side, i.Left, i.Entered)
	}
}

var (
	total    = regexp.MustCompile(`(?m)^Total cases: (\d+)\n(\d+) passed, (\d+) failed$`)
	expected = regexp.MustCompile(`(?m)^\(Another (\d+) failed as expected`)
	unrun    = regexp.MustCompile(`(?m)^Another (\d+) could not be run`)
)

func number(match []string, i int) int {
	if match == nil {
		return 0
	}
	n, _ := strconv.Atoi(match[i])
	return n
}

// start runs the suite, and leaves no process behind.
func (r run) start(t *testing.T) outcome {
	t.Helper()
	folder := t.TempDir()
	features := filepath.Join(folder, "features.yaml")
	if err := os.WriteFile(features, []byte(r.features), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--mode", r.mode, "--conf", features}
	for _, pattern := range r.failing {
		args = append(args, "--known-failing", pattern)
	}
	for _, pattern := range r.only {
		args = append(args, "--run", pattern)
	}
	reports := map[string]string{}
	under := func(program, file, stack string) []string {
		reports[program] = filepath.Join(folder, program)
		if err := os.Mkdir(reports[program], 0o700); err != nil {
			t.Fatal(err)
		}
		return []string{file, "-stack", stack, "-fault", r.fault, "-reports", reports[program], "-bare=" + strconv.FormatBool(*bare)}
	}
	client, server := r.mode != "server", r.mode != "client"
	args = append(args, "--")
	if client {
		args = append(append(args, under("client", r.program.client, r.client)...), "-attempts="+strconv.FormatBool(r.attempts))
	}
	if client && server {
		args = append(args, "----")
	}
	if server {
		args = append(args, under("server", r.program.server, r.server)...)
	}

	if r.limit == 0 {
		r.limit = limit
	}
	ctx, cancel := context.WithTimeout(t.Context(), r.limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.program.suite, args...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	if cmd.Process == nil {
		t.Fatal(err)
	}
	o := outcome{hung: ctx.Err() != nil, output: tail(output.String())}
	if left := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); !errors.Is(left, syscall.ESRCH) && !o.hung && r.fault == "" {
		t.Error("a process was left behind")
	}
	for program, reports := range reports {
		sum, err := chain.ReadReport(reports)
		if err != nil {
			t.Fatal(err)
		}
		if program == "client" {
			o.client = sum
		} else {
			o.server = sum
		}
	}
	match := total.FindStringSubmatch(output.String())
	o.cases, o.passed, o.failed = number(match, 1), number(match, 2), number(match, 3)
	o.expected = number(expected.FindStringSubmatch(output.String()), 1)
	o.unrun = number(unrun.FindStringSubmatch(output.String()), 1)
	if match == nil && !o.hung {
		t.Fatalf("%v: the suite gave no result\n%s", err, o.output)
	}
	if ok := err == nil; ok != (o.failed == 0 && o.unrun == 0 && !o.hung) {
		t.Errorf("the suite ended with %v, but:\n%s", err, o.output)
	}
	if strings.Contains(output.String(), "DATA RACE") {
		t.Errorf("a data race\n%s", output.String())
	}
	return o
}

// tail returns the end of a long text.
func tail(text string) string {
	const most = 8000
	if len(text) <= most {
		return text
	}
	return fmt.Sprintf("... %d bytes\n%s", len(text)-most, text[len(text)-most:])
}

// programs are the files of the suite and of the programs under test.
type programs struct{ suite, client, server string }

var (
	builtOnce sync.Once
	built     programs
	errBuild  error
)

// build builds everything, once, or skips the test.
func build(t *testing.T) *programs {
	t.Helper()
	if testing.Short() {
		t.Skip("the suite takes a while")
	}
	builtOnce.Do(func() { errBuild = buildAll(context.Background()) })
	if errors.Is(errBuild, suite.ErrNoBuf) && os.Getenv("CI") == "" {
		t.Skip(errBuild)
	}
	if errBuild != nil {
		t.Fatal(errBuild)
	}
	return &built
}

func buildAll(ctx context.Context) error {
	if err := suite.Generate(ctx, "."); err != nil {
		return err
	}
	// Reading them tells go test that its result depends on them.
	for _, pattern := range []string{"cmd/*/*.go", "internal/sut/*.go"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			if _, err := os.ReadFile(file); err != nil {
				return err
			}
		}
	}
	built = programs{filepath.Join(buildFolder, "connectconformance"), filepath.Join(buildFolder, "client"), filepath.Join(buildFolder, "server")}
	if err := suite.Build(ctx, built.suite); err != nil {
		return err
	}
	args := []string{"build", "-tags", "stubs", "-o", buildFolder}
	if race {
		args = append(args, "-race")
	}
	if out, err := exec.CommandContext(ctx, "go", append(args, "./cmd/...")...).CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

var buildFolder string

func TestMain(m *testing.M) {
	var err error
	if buildFolder, err = os.MkdirTemp("", "conformance"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(buildFolder)
	os.Exit(code)
}
