package poll

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

var errNotYet = errors.New("not yet")

func TestUntil(t *testing.T) {
	checks := 0
	err := Until(t.Context(), "third", time.Minute, time.Millisecond, func() error {
		if checks++; checks < 3 {
			return errNotYet
		}
		return nil
	})
	if err != nil || checks != 3 {
		t.Errorf("%d checks, %v", checks, err)
	}

	err = Until(t.Context(), "there", 5*time.Millisecond, time.Millisecond, func() error { return errNotYet })
	if !errors.Is(err, errNotYet) || !strings.Contains(err.Error(), "not after 5ms: there") {
		t.Errorf("after the timeout: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	err = Until(ctx, "there", time.Minute, time.Minute, func() error {
		cancel()
		return errNotYet
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("after the context has ended: %v", err)
	}
}
