//go:build !race

package composition

const everyShape = true
