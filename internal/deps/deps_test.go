// Package deps holds what each package may link: users link what they use.
package deps

import (
	"bytes"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module   = "github.com/rpcweft/weft"
	grpc     = "google.golang.org/grpc"
	connect  = "connectrpc.com/connect"
	vanguard = "connectrpc.com/vanguard"
)

// pkg is what `go list` says of a package.
type pkg struct {
	standard bool
	imports  []string // without those of its tests
	deps     []string // all that it links, without its tests
}

// list asks the go command, for this module and all that it links.
func list(t *testing.T) map[string]pkg {
	t.Helper()
	// The result of this test is cached for as long as the directories that it has looked at stay as they are.
	err := filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && (entry.Name() == "node_modules" || entry.Name() == ".git") {
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f",
		`{{.ImportPath}};{{.Standard}};{{join .Imports " "}};{{join .Deps " "}}`, module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, &stderr)
	}
	packages := map[string]pkg{}
	for line := range strings.Lines(string(out)) {
		parts := strings.Split(strings.TrimSpace(line), ";")
		packages[parts[0]] = pkg{parts[1] == "true", strings.Fields(parts[2]), strings.Fields(parts[3])}
	}
	return packages
}

// in reports whether path is prefix or below it.
func in(path, prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }

func TestYouLinkWhatYouUse(t *testing.T) {
	packages := list(t)
	forbidden := map[string][]string{ // what a package and those below it must not link
		"errors":           {grpc, connect, vanguard, module + "/connectx", module + "/grpcx"},
		"connectx":         {grpc, vanguard, module + "/grpcx"},
		"grpcx":            {connect, vanguard, module + "/connectx"},
		"grpcx/web":        {module + "/connectx"},
		"cors":             {grpc, connect, vanguard, module + "/connectx", module + "/grpcx"},
		"interceptors":     {grpc, connect, vanguard, module + "/connectx", module + "/grpcx"},
		"internal/message": {grpc, connect},
		"internal/origin":  {grpc, connect},
		"rpctest":          {vanguard},
	}
	for name, not := range forbidden {
		for path, p := range packages {
			if !in(path, module+"/"+name) || name == "grpcx" && in(path, module+"/grpcx/web") { // which has an entry of its own
				continue
			}
			for _, dep := range p.deps {
				for _, bad := range not {
					if in(dep, bad) {
						t.Errorf("%s links %s", path, dep)
					}
				}
			}
		}
	}
	for _, name := range []string{"core", "errors", "connectx", "grpcx", "grpcx/web", "cors", "internal/message", "internal/origin"} {
		if _, ok := packages[module+"/"+name]; !ok {
			t.Errorf("there is no package %s", name)
		}
	}
	for _, want := range [][2]string{{"connectx", connect}, {"grpcx", grpc}, {"grpcx/web", vanguard}} { // or this test looks at nothing
		if !slices.Contains(packages[module+"/"+want[0]].deps, want[1]) {
			t.Errorf("%s does not link %s", want[0], want[1])
		}
	}
}

func TestCoreImportsTheStandardLibraryAlone(t *testing.T) {
	packages := list(t)
	for _, dep := range packages[module+"/core"].deps {
		if !packages[dep].standard {
			t.Errorf("core links %s", dep)
		}
	}
}

// The kit for tests, and what tests share, is for tests.
func TestNoPackageImportsRpctest(t *testing.T) {
	for path, p := range list(t) {
		for _, dep := range p.imports {
			if in(dep, module+"/rpctest") && !in(path, module+"/rpctest") {
				t.Errorf("%s imports %s outside of its tests", path, dep)
			}
		}
	}
}

// Nothing that users import brings package testing into their programs.
func TestNobodyLinksTesting(t *testing.T) {
	for path, p := range list(t) {
		if !in(path, module) || in(path, module+"/rpctest") || in(path, module+"/internal") {
			continue
		}
		if slices.Contains(p.deps, "testing") {
			t.Errorf("%s links testing", path)
		}
	}
}
