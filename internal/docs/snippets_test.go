// Package docs keeps the code in the documents true: each block of Go in them stands, line for line, in code
// of this module that compiles and runs as a test.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

func TestEachSnippetIsCodeThatRuns(t *testing.T) {
	var sources []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == "node_modules" || strings.HasPrefix(d.Name(), ".") && d.Name() != ".." && path != root) {
			return fs.SkipDir
		}
		if err == nil && strings.HasSuffix(path, ".go") {
			source, err := os.ReadFile(path)
			sources = append(sources, flat(string(source)))
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	blocks := 0
	for _, pattern := range []string{"README.md", "docs/*.md"} {
		documents, _ := filepath.Glob(filepath.Join(root, pattern))
		for _, document := range documents {
			text, err := os.ReadFile(document)
			if err != nil {
				t.Fatal(err)
			}
			for _, block := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
				blocks++
				if !stands(flat(block[1]), sources) {
					t.Errorf("%s: this code is not that of any Go file:\n%s", document, block[1])
				}
			}
		}
	}
	if blocks < 4 {
		t.Errorf("found %d blocks of Go, want more", blocks)
	}
}

// flat takes indentation and empty lines away, which a document has otherwise.
func flat(code string) string {
	var lines []string
	for line := range strings.Lines(code) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return "\n" + strings.Join(lines, "\n") + "\n"
}

func stands(block string, sources []string) bool {
	for _, source := range sources {
		if strings.Contains(source, block) {
			return true
		}
	}
	return false
}

func TestEachLinkBetweenDocumentsLeadsSomewhere(t *testing.T) {
	for _, pattern := range []string{"README.md", "CONTRIBUTING.md", "docs/*.md"} {
		documents, _ := filepath.Glob(filepath.Join(root, pattern))
		for _, document := range documents {
			text, err := os.ReadFile(document)
			if err != nil {
				t.Fatal(err)
			}
			for _, link := range regexp.MustCompile(`\]\(([^)#:]+)[)#]`).FindAllStringSubmatch(string(text), -1) {
				if _, err := os.Stat(filepath.Join(filepath.Dir(document), link[1])); err != nil {
					t.Errorf("%s links to %s, which is not there", document, link[1])
				}
			}
		}
	}
}
