//go:build !race

package clients

const race = false
