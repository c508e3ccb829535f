package localcluster

import (
	"context"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// DialFrom returns a dialer whose connections begin in a network namespace of
// the local cluster.
// https://man7.org/linux/man-pages/man2/setns.2.html
func DialFrom(path string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			// It is never unlocked, so the thread ends with the goroutine and no
			// other one finds itself in the namespace.
			runtime.LockOSThread()
			var namespace *os.File
			if namespace, err = os.Open(path); err != nil {
				return
			}
			defer namespace.Close()
			if err = unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
				return
			}
			conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		}()
		<-done
		return conn, err
	}
}
