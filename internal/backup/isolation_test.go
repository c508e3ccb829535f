package backup

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
)

// reachAt does what needs the address of the API server, with another one.
func reachAt(t *testing.T, address string, do func(context.Context, *job) error) (Result, error) {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", host)
	t.Setenv("KUBERNETES_SERVICE_PORT", port)
	return runWith(t.Context(), &Task{Action: Isolation}, &Files{}, testr.New(t), do)
}

// until makes attempts until they have ended.
func until(ended func(*attempts) bool) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error { return j.reach(ctx, &attempts{ended: ended}) }
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// All tries from since to until had the result.
func TestReach(t *testing.T) {
	listener := listen(t, "127.0.0.1:0")
	defer func() { _ = listener.Close() }()
	before := time.Now()
	result, err := reachAt(t, listener.Addr().String(), until(func(a *attempts) bool { return a.made == 2 }))
	if err != nil || result.Reached == nil || !*result.Reached || result.Late {
		t.Fatalf("%+v, %v", result, err)
	}
	if result.Since.Before(before) || result.Until.Sub(*result.Since) < tryEvery || result.Until.After(time.Now()) {
		t.Errorf("from %s to %s", result.Since, result.Until)
	}
}

// Nothing listens after a while: whether that is refused or dropped, no connection is made.
func TestReachEnds(t *testing.T) {
	listener := listen(t, "127.0.0.1:0")
	closed := make(chan time.Time, 1)
	time.AfterFunc(1500*time.Millisecond, func() {
		_ = listener.Close()
		closed <- time.Now()
	})
	result, err := reachAt(t, listener.Addr().String(), until(func(a *attempts) bool { return !a.reached && a.row == 2 }))
	if err != nil || result.Reached == nil || *result.Reached || !result.Late || result.Since.Before(<-closed) {
		t.Errorf("%+v, %v", result, err)
	}
}

// What an Isolation does, and not a Reach: ten tries, at a port where nothing listens.
func TestIsolation(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes ten seconds")
	}
	listener := listen(t, "127.0.0.1:0")
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	result, err := reachAt(t, listener.Addr().String(), func(ctx context.Context, j *job) error { return j.run(ctx) })
	if err != nil || result.Reached == nil || *result.Reached || result.Late {
		t.Fatalf("%+v, %v", result, err)
	}
	if took := result.Until.Sub(*result.Since).Round(tryEvery); took != (enough-1)*tryEvery {
		t.Errorf("it took %s", took)
	}
}

func TestReachWithoutAddress(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for _, action := range []Action{Reach, Isolation} {
		result, err := Run(t.Context(), &Task{Action: action}, &Files{}, testr.New(t))
		if err == nil || result.Reached != nil || result.Reason != Failed {
			t.Errorf("%s: %+v, %v", action, result, err)
		}
	}
}

// What an Isolation and a Reach find out of tries that were successful (+) and were not (-), and after how many of
// them.
func TestAttempts(t *testing.T) {
	const tenPlus, tenMinus = "++++++++++", "----------"
	for name, tt := range map[string]struct {
		tries   string
		begin   func() *attempts
		after   int
		reached bool
		// since is the number of the try since when.
		since int
	}{
		"isolated at once":                 {tenMinus, isolationAttempts, 10, false, 0},
		"isolated after a moment":          {"+++" + tenMinus, isolationAttempts, 13, false, 3},
		"a failure is none":                {"+--+" + tenMinus, isolationAttempts, 14, false, 4},
		"not isolated":                     {tenPlus + tenPlus + tenPlus + "+", isolationAttempts, 30, true, 0},
		"not isolated, with failures":      {tenPlus + tenMinus[1:] + tenPlus + tenPlus, isolationAttempts, 39, true, 19},
		"reached":                          {strings.Repeat("+", 80), reachAttempts, 75, true, 0},
		"reached, but for a failure":       {tenPlus + "-" + strings.Repeat("+", 70), reachAttempts, 75, true, 0},
		"reached, but for two failures":    {tenPlus + "--" + strings.Repeat("+", 70), reachAttempts, 75, true, 12},
		"reached, but for two by turns":    {tenPlus + "-+-" + strings.Repeat("+", 70), reachAttempts, 75, true, 0},
		"not reached any more":             {strings.Repeat("+", 73) + "--", reachAttempts, 75, false, 73},
		"an Isolation ends before a Reach": {strings.Repeat("+", 29) + tenMinus, isolationAttempts, 39, false, 29},
	} {
		a := tt.begin()
		start := time.Date(2026, 1, 4, 12, 0, 0, 0, time.UTC)
		for i := 0; !a.ended(a) && i < len(tt.tries); i++ {
			at := start.Add(time.Duration(i) * tryEvery)
			a.add(tt.tries[i] == '+', at, at.Add(tryEvery))
		}
		if a.made != tt.after || !a.ended(a) || a.reached != tt.reached ||
			!a.since.Equal(start.Add(time.Duration(tt.since)*tryEvery)) ||
			!a.until.Equal(start.Add(time.Duration(a.made)*tryEvery)) {
			t.Errorf("%s: %+v", name, *a)
		}
	}
}
