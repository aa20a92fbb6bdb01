// Command bundle writes the script of the echo server's page, which is committed so that the server needs Go alone.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/rpcweft/weft/test/browser/bundle"
)

func main() {
	script, err := bundle.Page()
	if err == nil {
		err = os.WriteFile(filepath.Join(bundle.Root(), bundle.PageFile), script, 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bundle:", err)
		os.Exit(1)
	}
}
