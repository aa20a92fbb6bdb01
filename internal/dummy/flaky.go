package dummy

import (
	"context"
	"strconv"
	"strings"
	"sync"

	"github.com/rpcweft/weft/errors"
)

const (
	maxKeys = 1000 // of which FlakyCases knows how often they came
	maxKey  = 64   // bytes
)

// FlakyCases returns further special inputs, for clients that try again. Unlike the others they remember something: how
// often a key came, KEY being up to 64 bytes of the client's choice. Of 1000 keys, that is; the oldest is forgotten first.
//
//   - flaky:N:CODE:KEY does what fail:CODE does the first N times, and echoes from then on.
//   - lazy:N:DURATION:KEY does what sleep:DURATION does the first N times, and echoes at once from then on.
//
// N is at most 1000.
func FlakyCases() Cases {
	seen := &visits{count: map[string]int{}}
	return Cases{
		"flaky:": func(_ context.Context, in *Input) (string, error) {
			code, first, err := seen.visit(in)
			if err != nil || !first {
				return in.Text, err
			}
			return "", failure(code)
		},
		"lazy:": func(ctx context.Context, in *Input) (string, error) {
			duration, first, err := seen.visit(in)
			if err != nil || !first {
				return in.Text, err
			}
			return in.Text, sleep(ctx, duration)
		},
	}
}

// visits counts how often keys came.
type visits struct {
	mu    sync.Mutex
	count map[string]int
	order []string // the oldest first
}

// visit takes N:WHAT:KEY apart, and reports whether the input is one of the first N.
func (v *visits) visit(in *Input) (what string, first bool, err error) {
	parts := strings.SplitN(in.Arg, ":", 3)
	if len(parts) < 3 || len(parts[2]) > maxKey {
		return "", false, errors.InvalidArgument("malformed input %.100q: want a number, what to do, and a key of %d bytes at most, with colons between", in.Text, maxKey)
	}
	n, err := strconv.Atoi(parts[0])
	if err != nil || n < 0 || n > maxAfter {
		return "", false, errors.InvalidArgument("malformed number %.64q: want 0 to %d", parts[0], maxAfter)
	}
	prefix, _, _ := strings.Cut(in.Text, ":")
	key := prefix + ":" + parts[2]
	v.mu.Lock()
	defer v.mu.Unlock()
	count, known := v.count[key]
	if !known {
		if len(v.order) == maxKeys {
			delete(v.count, v.order[0])
			v.order = v.order[1:]
		}
		v.order = append(v.order, key)
	}
	v.count[key] = min(count+1, maxAfter+1)
	return parts[1], count < n, nil
}
