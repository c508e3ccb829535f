// Command hammer is a client of a Vault that writes and reads without pause,
// each request on a connection of its own, and tells at the end for how long it
// was not served, and whether what was acknowledged is there.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// report is what is printed at the end.
type report struct {
	Writes, Reads outcome
	// Lost are keys whose write was acknowledged and that are not there.
	Lost []string
}

// outcome sums up the requests of one kind.
type outcome struct {
	Requests, Failed int
	// Outage is the longest time between two requests that were served.
	Outage time.Duration
	// From is when that outage began.
	From time.Time
	// LastError is what the last request that failed said.
	LastError string

	last time.Time
}

type hammer struct {
	client   *http.Client
	address  string
	token    string
	interval time.Duration
}

func main() {
	address := flag.String("address", "", "where the Service is: https://ADDRESS:PORT")
	serverName := flag.String("server-name", "", "name to verify the certificate for")
	ca := flag.String("ca", "", "file with the certificate authority")
	interval := flag.Duration("interval", 25*time.Millisecond, "pause between two requests of a kind")
	timeout := flag.Duration("timeout", 500*time.Millisecond, "how long one request may take")
	limit := flag.Duration("limit", 10*time.Minute, "when to stop at the latest; SIGTERM stops before")
	flag.Parse()
	if err := run(*address, *serverName, *ca, *interval, *timeout, *limit); err != nil {
		fmt.Fprintln(os.Stderr, "hammer:", err)
		os.Exit(1)
	}
}

func run(address, serverName, ca string, interval, timeout, limit time.Duration) error {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	h := &hammer{address: address, token: os.Getenv("VAULT_TOKEN"), interval: interval, client: &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			// A client that comes anew is sent where the Service points now.
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS12},
		},
	}}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	var result report
	var written []string
	var wait sync.WaitGroup
	wait.Go(func() {
		n := 0
		result.Writes = h.repeat(ctx, func() error {
			n++
			key := fmt.Sprintf("hammer-%d", n)
			err := h.do(http.MethodPut, key, `{"value": "`+key+`"}`)
			if err == nil {
				written = append(written, key)
			}
			return err
		})
	})
	wait.Go(func() {
		result.Reads = h.repeat(ctx, func() error { return h.do(http.MethodGet, "foo", "") })
	})
	wait.Wait()
	for _, key := range written {
		if err := h.do(http.MethodGet, key, ""); err != nil {
			result.Lost = append(result.Lost, key+": "+err.Error())
		}
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// repeat makes requests until the context ends.
func (h *hammer) repeat(ctx context.Context, request func() error) outcome {
	o := outcome{last: time.Now()}
	ticker := time.NewTicker(h.interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return o
		case <-ticker.C:
		}
		o.Requests++
		if err := request(); err != nil {
			o.Failed++
			o.LastError = err.Error()
			continue
		}
		if gap := time.Since(o.last); gap > o.Outage {
			o.Outage, o.From = gap, o.last
		}
		o.last = time.Now()
	}
}

func (h *hammer) do(method, key, body string) error {
	request, err := http.NewRequest(method, h.address+"/v1/secret/"+key, strings.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("X-Vault-Token", h.token)
	response, err := h.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var answer bytes.Buffer
	if _, err := answer.ReadFrom(response.Body); err != nil {
		return err
	}
	if response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s: %s", response.Status, answer.String())
	}
	return nil
}
