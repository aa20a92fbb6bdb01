// Package bundle makes one script of TypeScript and the npm packages that it uses.
package bundle

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/evanw/esbuild/pkg/api"
)

// Root is the folder of the repository.
func Root() string {
	_, file, _, _ := runtime.Caller(0) //nolint:dogsled // nothing else tells where the source is
	return filepath.Join(filepath.Dir(file), "../../..")
}

// Page returns the script of the echo server's page. The committed one is the file [PageFile].
func Page() ([]byte, error) { return Script("cmd/echo-server/page/src/main.ts") }

// PageFile is where the script of the page is committed, from the root of the repository.
const PageFile = "cmd/echo-server/page/app.js"

// Script returns the script, an ECMAScript module, that begins with a file, which is named from the root of the
// repository. It needs the packages that `npm ci` installs in test/browser.
func Script(entry string) ([]byte, error) {
	root := Root()
	result := api.Build(api.BuildOptions{
		AbsWorkingDir:     root,
		EntryPoints:       []string{entry},
		NodePaths:         []string{filepath.Join(root, "test/browser/node_modules")},
		Bundle:            true,
		Format:            api.FormatESModule,
		Target:            api.ES2022,
		MinifyWhitespace:  true,
		MinifySyntax:      true,
		MinifyIdentifiers: true,
		LegalComments:     api.LegalCommentsInline,
		Charset:           api.CharsetUTF8,
		TsconfigRaw:       "{}", // none that happens to be near
	})
	messages := api.FormatMessages(append(result.Errors, result.Warnings...), api.FormatMessagesOptions{})
	if len(messages) > 0 {
		return nil, fmt.Errorf("bundling %s (`make setup` installs what it needs): %w", entry, errors.New(strings.Join(messages, "")))
	}
	return result.OutputFiles[0].Contents, nil
}
