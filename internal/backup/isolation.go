package backup

import (
	"context"
	"net"
	"os"
	"time"
)

const (
	// tryEvery is how long each try to connect takes, at least and at most.
	tryEvery = time.Second
	// enough is how many tries in a row must fail until the API server is taken for out of reach.
	enough = 10
	// settleTries is how many tries may succeed until a NetworkPolicy is taken for one that is not enforced.
	settleTries = 30
	// reachTries is how many tries a Reach makes: more than an Isolation that begins some time after it.
	reachTries = 75
)

// SettleTime is for how long an Isolation lets a pod reach the API server before its NetworkPolicy takes effect.
// Plugins that do not keep a pod from starting until they have its policies take some seconds.
const SettleTime = settleTries * tryEvery

// attempts are how many were made, how many of them were successful, and the last row of those that all were, or all
// were not.
type attempts struct {
	made, connected int
	row             int
	reached         bool
	since, until    time.Time
	// tolerant says that a row of successful ones does not end by a single one that was not, and missed is when that
	// began.
	tolerant bool
	missed   time.Time
	// ended says that no more are to be made.
	ended func(*attempts) bool
}

// reachAttempts and isolationAttempts are what a Reach and an Isolation begin with.
func reachAttempts() *attempts {
	return &attempts{tolerant: true, ended: func(a *attempts) bool { return a.made == reachTries }}
}

func isolationAttempts() *attempts {
	return &attempts{ended: func(a *attempts) bool {
		return a.connected == settleTries || !a.reached && a.row == enough
	}}
}

// reach tries to connect to the API server, whose address each pod has in its environment, and needs no rights there.
// https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
func (j *job) reach(ctx context.Context, a *attempts) error {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return fail(Failed, nil, "The environment does not tell where the API server is")
	}
	for {
		start := time.Now()
		dialer := net.Dialer{Timeout: tryEvery}
		connection, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
		if err == nil {
			_ = connection.Close() // that it was made is all
		} else {
			j.log.Info("Not connected", "reason", err.Error())
		}
		a.add(err == nil, start, time.Now())
		if a.ended(a) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Until(start.Add(tryEvery))):
		}
	}
	j.result.Reached, j.result.Since, j.result.Until = &a.reached, &a.since, &a.until
	j.result.Late = !a.reached && a.connected > 0
	return nil
}

func (a *attempts) add(connected bool, from, to time.Time) {
	a.made++
	if connected {
		a.connected++
	}
	from, to = from.UTC(), to.UTC()
	switch {
	case a.made > 1 && connected == a.reached:
	case a.made > 1 && a.reached && a.tolerant && a.missed.IsZero():
		a.missed = from
		return
	default:
		if !connected && !a.missed.IsZero() {
			from = a.missed
		}
		a.row, a.reached, a.since = 0, connected, from
	}
	a.missed = time.Time{}
	a.row, a.until = a.row+1, to
}
