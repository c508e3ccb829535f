package backup

import (
	"context"
	"net"
	"os"
	"time"
)

const (
	// reachTries is how often an Isolation tries to connect, and reachTimeout how long each try takes at
	// most. All together is longer than most plugins need to take up the policies of a pod that starts;
	// with one that needs any time the pod is not isolated.
	reachTries   = 10
	reachTimeout = time.Second
)

// isolation tries to connect to the API server, whose address each pod has in its environment, and needs
// no rights there. One connection that is made is enough to say that it can be reached.
// https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
func (j *job) isolation(ctx context.Context) error {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return fail(Failed, nil, "The environment does not tell where the API server is")
	}
	reached := false
	for range reachTries {
		next := time.After(reachTimeout)
		dialer := net.Dialer{Timeout: reachTimeout}
		connection, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
		if err == nil {
			reached = true
			_ = connection.Close() // that it was made is all
			break
		}
		j.log.Info("Not connected", "reason", err.Error())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next:
		}
	}
	j.result.Reached = &reached
	return nil
}
