// Package poll waits in tests for what takes a while.
package poll

import (
	"context"
	"fmt"
	"time"
)

// T is what is needed of a test.
type T interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Eventually calls check until it returns nil, and fails the test when it does not
// within the timeout. The interval is the pause between a check and the next.
func Eventually(t T, what string, timeout, interval time.Duration, check func() error) {
	t.Helper()
	begin := time.Now()
	if err := Until(context.Background(), what, timeout, interval, check); err != nil {
		t.Fatalf("%v", err)
		return
	}
	t.Logf("%s after %s", what, time.Since(begin).Round(100*time.Millisecond))
}

// Until is Eventually for what is no test. Its error says what the last check returned.
func Until(ctx context.Context, what string, timeout, interval time.Duration, check func() error) error {
	begin := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		looked := time.Now()
		err := check()
		if err == nil {
			return nil
		}
		if time.Since(begin) > timeout {
			return fmt.Errorf("not after %s: %s: %w", timeout, what, err)
		}
		// So checks that start processes take half of a CPU at most, also when it is busy.
		timer.Reset(max(interval, time.Since(looked)))
	}
}
