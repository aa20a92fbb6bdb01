// Package suite brings the Connect conformance suite: its program, built as its
// authors released it, and the stubs of its service.
package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The release, and what its module must be. v1.0.7 needs a module that the public proxy does not have.
const (
	module  = "connectrpc.com/conformance"
	Version = "v1.0.6"
	sum     = "h1:6XlWDDKemua7Sm6+Q9KLjyqQqRzOiC2i+sIllnqQ/7A="
)

// run runs a command in a folder and returns what it printed.
func run(ctx context.Context, folder, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // commands of ours
	cmd.Dir = folder
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, problems.String(), out)
	}
	return string(out), nil
}

// Dir returns the folder of the suite's module, downloaded and checked.
func Dir(ctx context.Context) (string, error) {
	out, err := run(ctx, "", "go", "mod", "download", "-json", module+"@"+Version)
	if err != nil {
		return "", err
	}
	var info struct{ Dir, Sum string }
	if err := json.Unmarshal([]byte(out), &info); err != nil { //nolint:musttag // the names are those of the go command
		return "", err
	}
	if info.Sum != sum {
		return "", fmt.Errorf("%s@%s has the checksum %s, want %s", module, Version, info.Sum, sum)
	}
	return info.Dir, nil
}

// Build builds the suite's program into a file, with the versions that its own go.mod names.
func Build(ctx context.Context, file string) error {
	dir, err := Dir(ctx)
	if err != nil {
		return err
	}
	_, err = run(ctx, dir, "go", "build", "-o", file, "./cmd/connectconformance")
	return err
}

// ErrNoBuf says that the stubs cannot be generated.
var ErrNoBuf = errors.New("buf is not installed: run this through make, or run tools/setup.sh and put tools/node_modules/.bin on the PATH")

// Generate generates the stubs into the folder gen of this module, whose root is given, unless they are there.
func Generate(ctx context.Context, root string) error {
	template, err := os.ReadFile(filepath.Join(root, "buf.gen.yaml")) //nolint:gosec // a file of ours
	if err != nil {
		return err
	}
	stamp := filepath.Join(root, "gen", ".stamp")
	want := Version + "\n" + string(template)
	if got, err := os.ReadFile(stamp); err == nil && string(got) == want { //nolint:gosec // a file of ours
		return nil
	}
	if _, err := exec.LookPath("buf"); err != nil {
		return ErrNoBuf
	}
	dir, err := Dir(ctx)
	if err != nil {
		return err
	}
	if _, err := run(ctx, root, "buf", "generate", filepath.Join(dir, "proto"), "--template", "buf.gen.yaml"); err != nil {
		return err
	}
	return os.WriteFile(stamp, []byte(want), 0o600) //nolint:gosec // a file of ours
}
