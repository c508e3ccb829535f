package backup

import (
	"context"
	"net"
	"os"
	"time"
)

const (
	// reachTries is how often in a row no connection may be made until the API server is taken for out of reach, and
	// reachTimeout is how long each try takes, at least and at most.
	reachTries   = 10
	reachTimeout = time.Second
	// settleTries is how many connections may be made until a NetworkPolicy is taken for one that is not enforced.
	settleTries = 30
)

// SettleTime is for how long an Isolation lets a pod reach the API server before its NetworkPolicy takes effect. Plugins
// that do not keep a pod from starting until they have its policies take some seconds.
const SettleTime = settleTries * reachTimeout

// reach tries to connect to the API server, whose address each pod has in its environment, and needs no rights
// there. It ends after that many connections.
// https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
func (j *job) reach(ctx context.Context, connections int) error {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return fail(Failed, nil, "The environment does not tell where the API server is")
	}
	made, failed := 0, 0
	for made < connections && failed < reachTries {
		next := time.After(reachTimeout)
		dialer := net.Dialer{Timeout: reachTimeout}
		connection, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
		if err == nil {
			made, failed = made+1, 0
			_ = connection.Close() // that it was made is all
			if made == connections {
				break
			}
		} else {
			failed++
			j.log.Info("Not connected", "reason", err.Error())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next:
		}
	}
	j.result.Reached = new(made == connections)
	j.result.Late = made > 0 && made < connections
	return nil
}
