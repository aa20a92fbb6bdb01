package dummy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rpcweft/weft/core"
)

func TestFlakyFailsTheFirstTimesOfEachKey(t *testing.T) {
	for _, shape := range shapes {
		service := New(FlakyCases())
		for i, want := range []core.Code{core.CodeAborted, core.CodeAborted, core.CodeOK, core.CodeOK} {
			for _, key := range []string{"a", "b:c", ""} {
				var f fake
				input := "flaky:2:aborted:" + key
				err := f.call(t.Context(), service, shape, input)
				if core.CodeOf(err) != want || want == core.CodeOK && strings.Join(f.outputs, "") != input {
					t.Errorf("%s, time %d of %q: got %q, %v, want %s", shape, i+1, key, f.outputs, err, want)
				}
			}
		}
	}
}

func TestLazySleepsTheFirstTimesOfEachKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := New(FlakyCases())
		for _, want := range []time.Duration{time.Hour, 0} {
			var f fake
			start := time.Now()
			if err := f.call(t.Context(), service, core.ShapeUnary, "lazy:1:1h:a"); err != nil || time.Since(start) != want || f.outputs[0] != "lazy:1:1h:a" {
				t.Errorf("after %s: %q, %v", time.Since(start), f.outputs, err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := new(fake).call(ctx, service, core.ShapeUnary, "lazy:1:1h:b"); core.CodeOf(err) != core.CodeDeadlineExceeded {
			t.Error(err)
		}
	})
}

func TestFlakyRemembersSoManyKeys(t *testing.T) {
	service := New(FlakyCases())
	call := func(key string) core.Code {
		return core.CodeOf(new(fake).call(t.Context(), service, core.ShapeUnary, "flaky:1:aborted:"+key))
	}
	for i := range 3000 {
		if got := call(fmt.Sprint(i)); got != core.CodeAborted {
			t.Fatalf("key %d: %s", i, got)
		}
	}
	if got := call("2999"); got != core.CodeOK {
		t.Errorf("the last key: %s", got)
	}
	if got := call("0"); got != core.CodeAborted {
		t.Errorf("the first key, which is forgotten: %s", got)
	}
}

func TestWhatIsMalformedOfFlakyIsNamed(t *testing.T) {
	for input, named := range map[string]string{
		"flaky:1:aborted": `"flaky:1:aborted"`, "flaky:x:aborted:k": `"x"`, "flaky:1001:aborted:k": `"1001"`, "flaky:-1:aborted:k": `"-1"`,
		"flaky:1:what:k": `"what"`, "lazy:1:soon:k": `"soon"`, "lazy:": `"lazy:"`, "flaky:1:aborted:" + strings.Repeat("k", 65): "64 bytes",
	} {
		err := new(fake).call(t.Context(), New(FlakyCases()), core.ShapeUnary, input)
		if core.CodeOf(err) != core.CodeInvalidArgument || !strings.Contains(err.Error(), named) {
			t.Errorf("%q: %v", input, err)
		}
	}
}
