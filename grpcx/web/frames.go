package web

import (
	"bytes"
	"encoding/binary"
)

// frames makes the keys in the trailer of a gRPC-Web response lower case, as the protocol wants them: vanguard v0.4.0
// writes Grpc-Status, which Google's client does not find, so that it takes a failure for a success. A test fails when vanguard
// writes it right; then this goes.
//
// The zero value is at the start of a response. It looks at the bytes as they pass, wherever they were cut.
type frames struct {
	prefix [prefixLen]byte
	have   int // bytes of the prefix
	left   uint32
	value  bool // of the trailer's line a value is under way, not a key
}

// lower returns the bytes that follow those of the call before, as they should be. It does not change p.
func (f *frames) lower(p []byte) []byte {
	var changed []byte // p, once it is not the same
	for i := 0; i < len(p); {
		if f.left == 0 {
			f.prefix[f.have] = p[i]
			i++
			if f.have++; f.have == prefixLen {
				f.have, f.value = 0, false
				f.left = binary.BigEndian.Uint32(f.prefix[1:])
			}
			continue
		}
		n := int(min(uint64(f.left), uint64(len(p)-i))) //nolint:gosec // not more than len(p)
		if f.prefix[0] == 0x80 {                        // a trailer that is not compressed
			if changed == nil {
				changed = bytes.Clone(p)
			}
			f.lowerKeys(changed[i : i+n])
		}
		i += n
		f.left -= uint32(n) //nolint:gosec // not more than left
	}
	if changed == nil {
		return p
	}
	return changed
}

func (f *frames) lowerKeys(line []byte) {
	for i, b := range line {
		switch {
		case b == '\n':
			f.value = false
		case b == ':':
			f.value = true
		case !f.value && 'A' <= b && b <= 'Z':
			line[i] += 'a' - 'A'
		}
	}
}
