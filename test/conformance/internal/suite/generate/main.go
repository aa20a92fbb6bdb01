// Command generate generates the stubs of the suite's service; see package suite. It
// runs in the module's root.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/rpcweft/weft/test/conformance/internal/suite"
)

func main() {
	if err := suite.Generate(context.Background(), "."); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}
