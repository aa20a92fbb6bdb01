package browser

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rpcweft/weft/test/browser/bundle"
)

func TestTheScriptOfThePageIsTheCommittedOne(t *testing.T) {
	packages(t)
	want, err := bundle.Page()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(bundle.Root(), bundle.PageFile))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what its sources make: run `make generate` and commit it", bundle.PageFile)
	}
}

func TestTypeScriptHasTheRightTypes(t *testing.T) {
	if testing.Short() {
		t.Skip("the compiler is slow")
	}
	packages(t)
	if out, err := exec.Command(filepath.Join("node_modules", ".bin", "tsc"), "-p", ".").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
