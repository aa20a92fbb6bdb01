// Package tools holds no code: its go.mod pins the programs that build and check the project, which
// tools/setup.sh installs into tools/bin.
package tools
