// Command hammer is a client of a Vault that writes and reads without pause,
// each request on a connection of its own, and tells at the end for how long it
// was not served, and whether what was acknowledged is there.
//
// With several addresses it is a client that needs no Service: it sends each
// request to all of them, and is served when one serves it; it keeps connections,
// as nothing is to be chosen anew. Nodes are told not to send its requests on: a
// standby node that has many under way to an active one that is lost needs another
// five seconds to take over. A line of addresses on the standard input takes
// the place of those it had.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vault-operator/vault-operator/test/internal/hammer"
)

// outcome is what is known of the requests of one kind.
type outcome struct {
	hammer.Outcome
	// last is when the last request was served.
	last time.Time
}

type worker struct {
	client         *http.Client
	header         http.Header
	interval, calm time.Duration
	// retry says that a client tries again until it is served.
	retry bool

	mu        sync.Mutex
	addresses []string
}

// lastOutage is how long an outage at the end may last before it is given up on.
const lastOutage = 30 * time.Second

// longWait is longer than it takes until another node is active.
const longWait = 25 * time.Second

// maxRetries is for how long a client tries again.
const maxRetries = 2 * time.Minute

func main() {
	addresses := flag.String("address", "",
		"where the Service is, https://ADDRESS:PORT, or where the nodes are, separated by commas")
	serverName := flag.String("server-name", "", "name to verify the certificate for")
	ca := flag.String("ca", "", "file with the CA")
	writes := flag.Bool("writes", true, "write, and not only read")
	interval := flag.Duration("interval", 25*time.Millisecond, "pause between two requests of a kind")
	timeout := flag.Duration("timeout", 500*time.Millisecond, "how long one request may take")
	retry := flag.Bool("retry", false, "try a request that has failed again, after the interval, until it is served")
	calm := flag.Duration("calm", 0,
		"stop by itself when all requests have been served for so long after some were not; 0 is never")
	limit := flag.Duration("limit", 10*time.Minute, "when to stop at the latest; SIGTERM stops before")
	flag.Parse()
	if err := run(*addresses, *serverName, *ca, *writes, *retry, *interval, *timeout, *calm, *limit); err != nil {
		fmt.Fprintln(os.Stderr, "hammer:", err)
		os.Exit(1)
	}
}

func run(addresses, serverName, ca string, writes, retry bool, interval, timeout, calm, limit time.Duration) error {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	h := newWorker(strings.Split(addresses, ","), roots, serverName, timeout)
	h.interval, h.calm, h.retry = interval, calm, retry
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	go h.follow(os.Stdin)
	result, written := h.work(ctx, writes)
	for _, key := range written {
		if err := h.readBack(key); err != nil {
			result.Lost = append(result.Lost, key+": "+err.Error())
		}
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

func newWorker(addresses []string, roots *x509.CertPool, serverName string, timeout time.Duration) *worker {
	h := &worker{addresses: addresses, header: http.Header{"X-Vault-Token": {os.Getenv("VAULT_TOKEN")}},
		client: &http.Client{
			Timeout: timeout,
			Transport: &http.Transport{
				// A client that comes anew is sent where the Service points now.
				DisableKeepAlives: len(addresses) == 1,
				TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS12},
			},
		}}
	if len(addresses) > 1 {
		h.header.Set("X-Vault-No-Request-Forwarding", "true")
		h.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return h
}

// follow takes up the addresses of each line.
func (h *worker) follow(lines io.Reader) {
	for scanner := bufio.NewScanner(lines); scanner.Scan(); {
		h.mu.Lock()
		h.addresses = strings.Split(scanner.Text(), ",")
		h.mu.Unlock()
	}
}

// work makes requests until the context ends, and returns which keys were
// written.
func (h *worker) work(ctx context.Context, writes bool) (result hammer.Report, written []string) {
	// Keys of another run must not stand in for lost ones.
	prefix := fmt.Sprintf("hammer-%d-", time.Now().UnixNano())
	var mu sync.Mutex
	var wait sync.WaitGroup
	write := func(n int) error {
		key := prefix + strconv.Itoa(n)
		_, err := h.do(http.MethodPut, key, `{"value": "`+key+`"}`)
		if err == nil {
			mu.Lock()
			written = append(written, key)
			mu.Unlock()
		}
		return err
	}
	if writes {
		wait.Go(func() { result.Writes = h.repeat(ctx, write) })
	}
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
func (h *worker) repeat(ctx context.Context, request func(n int) error) hammer.Outcome {
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
		if (ctx.Err() != nil || h.isCalm(&mu, &o)) && ended.IsZero() {
			ended = time.Now()
		}
		if !ended.IsZero() && (lastServed().After(ended) || time.Since(ended) > lastOutage) {
			wait.Wait()
			o.Outage = max(o.Outage, time.Since(o.last))
			return o.Outcome
		}
		wait.Go(func() {
			for first := time.Now(); ; time.Sleep(h.interval) {
				begin := time.Now()
				err := request(n)
				mu.Lock()
				o.add(begin, err)
				over := err == nil || !h.retry || time.Since(first) > maxRetries
				if over {
					waited := time.Since(first)
					o.LongestWait = max(o.LongestWait, waited)
					if waited > longWait {
						o.LongWaits++
					}
				}
				mu.Unlock()
				if over {
					return
				}
			}
		})
	}
}

// isCalm says that what was to be seen is over.
func (h *worker) isCalm(mu *sync.Mutex, o *outcome) bool {
	mu.Lock()
	defer mu.Unlock()
	return h.calm > 0 && o.Failed > 0 && time.Since(o.LastFailed) > h.calm
}

func (o *outcome) add(begin time.Time, err error) {
	o.Requests++
	if err != nil {
		o.Failed++
		o.LastError = err.Error()
		if o.FirstFailed.IsZero() || begin.Before(o.FirstFailed) {
			o.FirstFailed = begin
		}
		if begin.After(o.LastFailed) {
			o.LastFailed = begin
		}
		if noResponse(err) && begin.After(o.LastWithoutResponse) {
			o.LastWithoutResponse = begin
		}
		return
	}
	if gap := time.Since(o.last); gap > o.Outage {
		o.Outage, o.OutageBegan = gap, o.last
	}
	o.last = time.Now()
}

// readBack says whether what was written to a key is there. A request may fail
// for other reasons, so it is repeated.
func (h *worker) readBack(key string) (err error) {
	for range 5 {
		var text string
		if text, err = h.do(http.MethodGet, key, ""); err == nil {
			if strings.Contains(text, `"value":"`+key+`"`) {
				return nil
			}
			return fmt.Errorf("holds %s", text)
		}
		time.Sleep(time.Second)
	}
	return err
}

// noResponse says that the request led to a process that hangs or to a node that
// is gone, as opposed to one that a node refused or responded to with an error.
func noResponse(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, syscall.EHOSTUNREACH)
}

// do makes a request to every address, and returns the first response that serves it,
// or the error of the last that did not.
func (h *worker) do(method, key, body string) (text string, err error) {
	h.mu.Lock()
	addresses := h.addresses
	h.mu.Unlock()
	type result struct {
		text string
		err  error
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	results := make(chan result, len(addresses))
	for _, address := range addresses {
		go func() {
			text, err := h.request(ctx, method, address+"/v1/secret/"+key, body)
			results <- result{text, err}
		}()
	}
	for range addresses {
		r := <-results
		if r.err == nil {
			return r.text, nil
		}
		err = r.err
	}
	return "", err
}

func (h *worker) request(ctx context.Context, method, url, body string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header = h.header.Clone()
	response, err := h.client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var content bytes.Buffer
	if _, err := content.ReadFrom(response.Body); err != nil {
		return "", err
	}
	// A standby node that sends nothing on names the active one by a redirection.
	if response.StatusCode >= http.StatusMultipleChoices {
		return "", fmt.Errorf("%s: %s", response.Status, content.String())
	}
	return content.String(), nil
}
