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
	"strconv"
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
	// Outage is the longest time between two answers that served the client.
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

// patience is how long an outage at the end may last before it is given up on.
const patience = 30 * time.Second

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

	result, written := h.hammer(ctx)
	for _, key := range written {
		if err := h.readBack(key); err != nil {
			result.Lost = append(result.Lost, key+": "+err.Error())
		}
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// hammer makes requests of both kinds until the context ends, and returns which
// keys were written.
func (h *hammer) hammer(ctx context.Context) (result report, written []string) {
	// Keys of another run must not stand in for lost ones.
	prefix := fmt.Sprintf("hammer-%d-", time.Now().UnixNano())
	var mu sync.Mutex
	var wait sync.WaitGroup
	wait.Go(func() {
		result.Writes = h.repeat(ctx, func(n int) error {
			key := prefix + strconv.Itoa(n)
			_, err := h.do(http.MethodPut, key, `{"value": "`+key+`"}`)
			if err == nil {
				mu.Lock()
				written = append(written, key)
				mu.Unlock()
			}
			return err
		})
	})
	wait.Go(func() {
		result.Reads = h.repeat(ctx, func(int) error {
			_, err := h.do(http.MethodGet, "foo", "")
			return err
		})
	})
	wait.Wait()
	return result, written
}

// repeat begins a request at each interval, whether or not earlier ones have
// ended, until the context ends and the last outage with it.
func (h *hammer) repeat(ctx context.Context, request func(n int) error) outcome {
	o := outcome{last: time.Now()}
	var mu sync.Mutex
	var wait sync.WaitGroup
	ticker := time.NewTicker(h.interval)
	defer ticker.Stop()
	lastServed := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return o.last
	}
	var ended time.Time
	for n := 1; ; n++ {
		<-ticker.C
		if ctx.Err() != nil && ended.IsZero() {
			ended = time.Now()
		}
		if !ended.IsZero() && (lastServed().After(ended) || time.Since(ended) > patience) {
			wait.Wait()
			o.Outage = max(o.Outage, time.Since(o.last))
			return o
		}
		wait.Go(func() {
			err := request(n)
			mu.Lock()
			defer mu.Unlock()
			o.add(err)
		})
	}
}

func (o *outcome) add(err error) {
	o.Requests++
	if err != nil {
		o.Failed++
		o.LastError = err.Error()
		return
	}
	if gap := time.Since(o.last); gap > o.Outage {
		o.Outage, o.From = gap, o.last
	}
	o.last = time.Now()
}

// readBack says whether what was written to a key is there. A request may fail
// for other reasons, so it is repeated.
func (h *hammer) readBack(key string) (err error) {
	for range 5 {
		var answer string
		if answer, err = h.do(http.MethodGet, key, ""); err == nil {
			if strings.Contains(answer, `"value":"`+key+`"`) {
				return nil
			}
			return fmt.Errorf("holds %s", answer)
		}
		time.Sleep(time.Second)
	}
	return err
}

func (h *hammer) do(method, key, body string) (string, error) {
	request, err := http.NewRequest(method, h.address+"/v1/secret/"+key, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set("X-Vault-Token", h.token)
	response, err := h.client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var answer bytes.Buffer
	if _, err := answer.ReadFrom(response.Body); err != nil {
		return "", err
	}
	if response.StatusCode >= http.StatusBadRequest {
		return "", fmt.Errorf("%s: %s", response.Status, answer.String())
	}
	return answer.String(), nil
}
