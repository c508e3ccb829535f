// Package backuptest runs what a backup is of and where it goes, on this machine and without a
// cluster: etcd, Vault with integrated storage, and an S3 server, all with TLS. Their programs
// are in the directory of the local cluster's.
package backuptest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/vault-operator/vault-operator/internal/backup"
	"github.com/vault-operator/vault-operator/internal/certs"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/vaultclient"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

const startTimeout = time.Minute

// Prefix is where Vault's keys are in etcd.
const Prefix = "vault/"

// Bucket is there from the start.
const Bucket = "backups"

// Credentials of the S3 server.
const (
	AccessKeyID     = "known-to-the-tests"
	SecretAccessKey = "not-a-secret-of-anybody"
)

// Machine has the programs, and directories for what they keep.
type Machine struct {
	T shell.T
	// Bin is the directory with the programs.
	Bin string
	// Dir is removed by whoever made it.
	Dir string

	ca    certs.KeyPair
	count int
}

// New makes a CA for all that runs on the machine.
func New(t shell.T, bin, dir string) *Machine {
	t.Helper()
	ca, err := certs.NewCA("backuptest", time.Now())
	if err != nil {
		t.Fatalf("%v", err)
	}
	return &Machine{T: t, Bin: bin, Dir: dir, ca: ca}
}

// dir makes a directory.
func (m *Machine) dir(name string) string {
	m.count++
	dir := filepath.Join(m.Dir, fmt.Sprintf("%s-%d", name, m.count))
	if err := os.MkdirAll(dir, 0o750); err != nil {
		m.T.Fatalf("%v", err)
	}
	return dir
}

// write writes files into a directory.
func (m *Machine) write(dir string, files map[string]string) string {
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			m.T.Fatalf("%v", err)
		}
	}
	return dir
}

// certificate is one for this machine.
func (m *Machine) certificate() map[string]string {
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	pair, err := certs.Sign(m.ca, "backuptest", usage, []string{"localhost"}, time.Now(), net.IPv4(127, 0, 0, 1))
	if err != nil {
		m.T.Fatalf("%v", err)
	}
	return map[string]string{"tls.crt": string(pair.Cert), "tls.key": string(pair.Key), "ca.crt": string(m.ca.Cert)}
}

// TLS trusts all that runs on the machine, and has a certificate.
func (m *Machine) TLS() *tls.Config {
	files := m.certificate()
	pair, err := tls.X509KeyPair([]byte(files["tls.crt"]), []byte(files["tls.key"]))
	if err != nil {
		m.T.Fatalf("%v", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(m.ca.Cert)
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// Files are those of a Job that may do everything.
func (m *Machine) Files() *backup.Files {
	return &backup.Files{
		Etcd:  m.write(m.dir("client"), m.certificate()),
		Vault: m.write(m.dir("vault-ca"), map[string]string{"ca.crt": string(m.ca.Cert)}),
		Login: m.dir("login"),
		S3: m.write(m.dir("s3-credentials"), map[string]string{
			"accessKeyID": AccessKeyID, "secretAccessKey": SecretAccessKey + "\n",
		}),
		S3CA:    m.write(m.dir("s3-ca"), map[string]string{"ca.crt": string(m.ca.Cert)}),
		Scratch: m.dir("scratch"),
	}
}

// start runs a program that listens at a port.
func (m *Machine) start(port int, env []string, format string, args ...any) *shell.Background {
	m.T.Helper()
	program := shell.Start(m.T, "exec "+m.Bin+"/"+fmt.Sprintf(format, args...), env...)
	shell.Eventually(m.T, fmt.Sprintf("port %d is open", port), startTimeout, func() error {
		if out, ended := program.Ended(); ended {
			return errors.New("it ended: " + out)
		}
		conn, err := net.Dial("tcp", address(port))
		if err == nil {
			_ = conn.Close() // nothing was sent
		}
		return err
	})
	return program
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// Etcd is one member.
type Etcd struct {
	*clientv3.Client
	Endpoint string
}

// Storage is what a task says of it.
func (e *Etcd) Storage() *backup.Storage {
	return &backup.Storage{Etcd: &backup.EtcdStorage{Endpoints: []string{e.Endpoint}, Prefix: Prefix}}
}

// StartEtcd runs etcd.
func (m *Machine) StartEtcd() *Etcd {
	m.T.Helper()
	dir := m.write(m.dir("etcd"), m.certificate())
	port, peers := vaulttest.FreePort(m.T), vaulttest.FreePort(m.T)
	m.start(port, nil, "etcd --data-dir=%[1]s/data --listen-client-urls=https://%[2]s "+
		"--advertise-client-urls=https://%[2]s --listen-peer-urls=http://%[3]s "+
		"--initial-advertise-peer-urls=http://%[3]s --initial-cluster=default=http://%[3]s "+
		"--client-cert-auth --trusted-ca-file=%[1]s/ca.crt --cert-file=%[1]s/tls.crt --key-file=%[1]s/tls.key "+
		"--quota-backend-bytes=8589934592 --log-level=error", dir, address(port), address(peers))
	endpoint := "https://" + address(port)
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, TLS: m.TLS(), Logger: zap.NewNop()})
	if err != nil {
		m.T.Fatalf("%v", err)
	}
	m.T.Cleanup(func() { _ = client.Close() })
	shell.Eventually(m.T, "etcd responds", startTimeout, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := client.Get(ctx, "/")
		return err
	})
	return &Etcd{Client: client, Endpoint: endpoint}
}

// S3 is an S3 server.
type S3 struct {
	*minio.Client
	// URL of the server.
	URL *url.URL
	// Transport reaches it.
	Transport *http.Transport
}

// Location is what a task says of the bucket.
func (s *S3) Location() backup.Location {
	return backup.Location{
		S3:     &backup.S3{Endpoint: s.URL.String(), Region: "us-east-1", Bucket: Bucket, PathStyle: true},
		Prefix: "vaults/example",
	}
}

// StartS3 runs an S3 server, with a bucket.
func (m *Machine) StartS3() *S3 {
	m.T.Helper()
	dir := m.write(m.dir("s3"), m.certificate())
	for _, name := range []string{"data", "metadata", "versions", "users"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o750); err != nil {
			m.T.Fatalf("%v", err)
		}
	}
	port := vaulttest.FreePort(m.T)
	m.start(port, []string{"ROOT_ACCESS_KEY=" + AccessKeyID, "ROOT_SECRET_KEY=" + SecretAccessKey},
		"versitygw --quiet --port=%[2]s --cert=%[1]s/tls.crt --key=%[1]s/tls.key --iam-dir=%[1]s/users posix "+
			"--sidecar=%[1]s/metadata --versioning-dir=%[1]s/versions %[1]s/data", dir, address(port))
	server := &S3{
		URL:       &url.URL{Scheme: "https", Host: address(port)},
		Transport: &http.Transport{TLSClientConfig: m.TLS(), DisableCompression: true},
	}
	var err error
	server.Client, err = minio.New(server.URL.Host, &minio.Options{
		Creds: credentials.NewStaticV4(AccessKeyID, SecretAccessKey, ""), Secure: true, Transport: server.Transport,
		Region: "us-east-1", BucketLookup: minio.BucketLookupPath,
	})
	if err == nil {
		err = server.MakeBucket(context.Background(), Bucket, minio.MakeBucketOptions{})
	}
	if err != nil {
		m.T.Fatalf("the S3 server: %v", err)
	}
	return server
}

// Vault is one node with integrated storage. Its keys are known when StartVault has initialized it.
type Vault struct {
	*vaultclient.Client
	Address   string
	Keys      []string
	RootToken string

	start   func()
	program *shell.Background
}

// Storage is what a task says of it.
func (v *Vault) Storage() *backup.Storage {
	return &backup.Storage{Raft: &backup.RaftStorage{Address: v.Address, AuthMount: "vault-operator", Role: "backup"}}
}

// StartVault runs a Vault of one node, initializes it with so many keys, of which so many are needed, and
// unseals it.
func (m *Machine) StartVault(shares, threshold int32) *Vault {
	m.T.Helper()
	v := m.StartNodes(1)[0]
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	made, err := v.Init(ctx, &vaultclient.InitRequest{SecretShares: shares, SecretThreshold: threshold})
	if err != nil {
		m.T.Fatalf("initializing Vault: %v", err)
	}
	v.Keys, v.RootToken = made.Keys[:threshold], made.RootToken
	v.AwaitUnsealed(m.T, v.Keys, v.RootToken)
	return v
}

// StartNodes runs nodes of Vault that have no data, and join each other.
func (m *Machine) StartNodes(count int) []*Vault {
	m.T.Helper()
	var nodes []*Vault
	var ports []int
	for range count {
		ports = append(ports, vaulttest.FreePort(m.T))
	}
	for _, port := range ports {
		nodes = append(nodes, m.startNode(port, ports))
	}
	return nodes
}

func (m *Machine) startNode(port int, peers []int) *Vault {
	dir := m.write(m.dir("vault"), m.certificate())
	cluster, joins := vaulttest.FreePort(m.T), ""
	for _, peer := range peers {
		joins += fmt.Sprintf(`
			retry_join {
				leader_api_addr = "https://%s"
				leader_ca_cert_file = "%s/ca.crt"
			}`, address(peer), dir)
	}
	m.write(dir, map[string]string{"vault.hcl": fmt.Sprintf(`
		disable_mlock = true
		api_addr = "https://%[2]s"
		cluster_addr = "https://%[3]s"
		storage "raft" {
			path = %[1]q
			%[4]s
		}
		listener "tcp" {
			address         = "%[2]s"
			cluster_address = "%[3]s"
			tls_cert_file   = "%[1]s/tls.crt"
			tls_key_file    = "%[1]s/tls.key"

			http_read_timeout = "1h"
		}`, dir, address(port), address(cluster), joins)})
	v := &Vault{Address: "https://" + address(port), Client: vaultclient.New(probe.Target{
		Address: address(port), ServerName: "localhost", CA: string(m.ca.Cert),
	})}
	v.start = func() {
		v.program = m.start(port, nil, "vault server -log-level=error -config=%s/vault.hcl", dir)
	}
	v.start()
	return v
}

// Stop ends the node.
func (v *Vault) Stop() { v.program.Stop() }

// Restart starts the node again.
func (v *Vault) Restart() {
	v.program.Stop()
	v.start()
}

// IsStandby says that a node has led a request to the active one, as a standby node does.
func IsStandby(err error) bool { return vaultclient.StatusOf(err) == http.StatusTemporaryRedirect }

// AwaitUnsealed unseals the node with keys, and waits until it knows a token, or leads to the active node.
func (v *Vault) AwaitUnsealed(t shell.T, keys []string, token string) {
	t.Helper()
	// One that joins others is not given the keys again meanwhile.
	var given time.Time
	shell.Eventually(t, "Vault is unsealed", startTimeout, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		status, err := v.SealStatus(ctx)
		if err == nil && status.Sealed && time.Since(given) > startTimeout/2 {
			for _, key := range keys {
				if err == nil && status.Sealed {
					status, err = v.Unseal(ctx, key)
				}
			}
			if err == nil {
				given = time.Now()
			}
		}
		if err == nil && status.Sealed {
			err = errors.New("it is sealed")
		}
		if err == nil {
			err = v.LookupSelf(ctx, token)
		}
		if IsStandby(err) {
			err = nil
		}
		return err
	})
}
