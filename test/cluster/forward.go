package main

import (
	"context"
	"io"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// forward lets programs on the machine reach the API server, which listens in
// the control plane's network namespace, at an address on loopback.
func forward(ctx context.Context) error {
	listener, err := net.Listen("tcp", forwardAddress)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { listener.Close() })
	for {
		client, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer client.Close()
			server, err := dialControlPlane()
			if err != nil {
				return
			}
			defer server.Close()
			go func() {
				_, _ = io.Copy(server, client) // either side may end it
				_ = server.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.Copy(client, server)
		}()
	}
}

// dialControlPlane connects from within the control plane's namespace. A socket
// stays in the namespace of the thread that made it.
func dialControlPlane() (net.Conn, error) {
	// The thread is not unlocked: it ends with the goroutine below, so that no
	// other code runs in that namespace.
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	go func() {
		runtime.LockOSThread()
		namespace, err := os.Open(netns(controlPlane))
		if err == nil {
			defer namespace.Close()
			err = unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET)
		}
		if err != nil {
			results <- result{nil, err}
			return
		}
		conn, err := net.Dial("tcp", net.JoinHostPort(controlPlaneIP, "6443"))
		results <- result{conn, err}
	}()
	r := <-results
	return r.conn, r.err
}
