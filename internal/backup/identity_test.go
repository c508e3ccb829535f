package backup

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/internal/certs"
)

// asIdentity makes this test's process the Job, which finds its CA in that directory.
const asIdentity = "TEST_WORKLOAD_IDENTITY"

// cloud is what a pod with a workload identity talks to: the service that gives credentials for its
// token, and S3.
// https://docs.aws.amazon.com/eks/latest/userguide/iam-roles-for-service-accounts.html
type cloud struct {
	mu       sync.Mutex
	requests []string
	sessions int
}

const sessionToken = "session-token-that-is-temporary"

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	c.mu.Lock()
	defer c.mu.Unlock()
	if strings.HasPrefix(r.Host, "sts.") {
		c.sessions++
		c.requests = append(c.requests, fmt.Sprintf("%s %s %s %s",
			r.Host, r.Form.Get("Action"), r.Form.Get("RoleArn"), r.Form.Get("WebIdentityToken")))
		_, _ = fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">`+
			`<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIA%d</AccessKeyId>`+
			`<SecretAccessKey>s</SecretAccessKey><SessionToken>%s</SessionToken>`+
			`<Expiration>2999-01-01T00:00:00Z</Expiration></Credentials>`+
			`</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, c.sessions, sessionToken)
		return
	}
	_, credential, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	key, _, _ := strings.Cut(credential, "/")
	session := r.Header.Get("X-Amz-Security-Token")
	c.requests = append(c.requests, fmt.Sprintf("%s %s %s %s", r.Host, r.Method, key, session))
	w.WriteHeader(http.StatusNotFound)
}

// proxyTo is a proxy that connects to the same server, whatever is asked for.
func proxyTo(t *testing.T, address string) string {
	t.Helper()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		client, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = client.Close() }()
		server, err := net.Dial("tcp", address)
		if err != nil {
			return
		}
		defer func() { _ = server.Close() }()
		_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(server, client) }()
		_, _ = io.Copy(client, server)
	}))
	t.Cleanup(proxy.Close)
	return proxy.URL
}

// Without a Secret the Job shows the token of its ServiceAccount to the cloud, and uses what it gets for
// that. The variables are those that the webhook of the cloud sets in a pod.
func TestWorkloadIdentity(t *testing.T) {
	if dir := os.Getenv(asIdentity); dir != "" {
		s, err := newS3Store(&S3{Endpoint: "https://s3.eu-west-1.amazonaws.com", Bucket: "backups", Region: "eu-west-1"}, "",
			&Files{S3CA: dir, S3: filepath.Join(dir, "none")})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := s.find(t.Context(), "a.json"); reasonOf(err) != BucketMissing {
				t.Errorf("%v", err)
			}
		}
		return
	}
	c := &cloud{}
	server := httptest.NewUnstartedServer(c)
	ca, err := certs.NewCA("cloud", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	names := []string{
		"sts.eu-west-1.amazonaws.com", "backups.s3.eu-west-1.amazonaws.com",
		"backups.s3.dualstack.eu-west-1.amazonaws.com",
	}
	pair, err := certs.Sign(ca, "cloud", []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, names, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}}
	server.StartTLS()
	t.Cleanup(server.Close)
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	for name, content := range map[string][]byte{
		filepath.Join(dir, "ca.crt"): ca.Cert, token: []byte("token-of-the-pod"),
	} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The variables of proxies are read once in a process.
	job := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWorkloadIdentity$", "-test.v")
	proxy := proxyTo(t, server.Listener.Addr().String())
	job.Env = append(os.Environ(), asIdentity+"="+dir, "HTTPS_PROXY="+proxy, "NO_PROXY=",
		"AWS_WEB_IDENTITY_TOKEN_FILE="+token, "AWS_ROLE_ARN=arn:aws:iam::1:role/backup", "AWS_REGION=eu-west-1",
		"AWS_STS_REGIONAL_ENDPOINTS=regional")
	out, err := job.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), sessionToken) || strings.Contains(string(out), "token-of-the-pod") {
		t.Errorf("a token is told:\n%s", out)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	const login = "sts.eu-west-1.amazonaws.com AssumeRoleWithWebIdentity arn:aws:iam::1:role/backup token-of-the-pod"
	if c.sessions != 1 || len(c.requests) < 3 || c.requests[0] != login {
		t.Fatalf("%d logins, requests: %q", c.sessions, c.requests)
	}
	if slices.ContainsFunc(c.requests[1:], func(r string) bool {
		return !strings.HasPrefix(r, "backups.s3.") || !strings.HasSuffix(r, " HEAD ASIA1 "+sessionToken)
	}) {
		t.Errorf("requests: %q", c.requests[1:])
	}
}
