package backup

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// etcdTimeout is for a small request to etcd.
const etcdTimeout = 10 * time.Second

// etcdSource is the etcd of a Vault.
type etcdSource struct {
	*EtcdStorage
	tls *tls.Config
}

func newEtcdSource(storage *EtcdStorage, files *Files) (*etcdSource, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(files.Etcd, "tls.crt"), filepath.Join(files.Etcd, "tls.key"))
	if err != nil {
		return nil, fail(Failed, err, "The client certificate for etcd cannot be read")
	}
	ca, err := os.ReadFile(filepath.Join(files.Etcd, "ca.crt"))
	if err != nil {
		return nil, fail(Failed, err, "The CA of etcd cannot be read")
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fail(Failed, nil, "The CA of etcd is not a certificate in PEM")
	}
	if len(storage.Endpoints) == 0 || strings.Trim(storage.Prefix, "/") == "" {
		return nil, fail(Failed, nil, "The task names no endpoint of etcd, or no prefix")
	}
	return &etcdSource{EtcdStorage: storage, tls: &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12,
	}}, nil
}

// prefix is what the names of all of Vault's keys begin with.
// https://github.com/hashicorp/vault/blob/v1.21.0/physical/etcd/etcd3.go
func (e *etcdSource) prefix() string { return "/" + strings.Trim(e.Prefix, "/") + "/" }

func (e *etcdSource) dial(ctx context.Context, endpoints ...string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Context: ctx, Endpoints: endpoints, TLS: e.tls, Logger: zap.NewNop(),
		DialTimeout: etcdTimeout, DialKeepAliveTime: etcdTimeout, DialKeepAliveTimeout: etcdTimeout,
		// Pods are reached directly, whatever the environment says.
		DialOptions: []grpc.DialOption{grpc.WithNoProxy()},
	})
}

// member is one that can be asked for a snapshot.
type member struct {
	endpoint string
	leader   bool
}

// members returns the healthy ones. The leader is the last: it has the most to do.
func (e *etcdSource) members(ctx context.Context) ([]member, error) {
	var healthy []member
	var failed error
	for _, endpoint := range e.Endpoints {
		m, err := e.look(ctx, endpoint)
		switch {
		case err == nil:
			healthy = append(healthy, m)
		case reasonOf(err) == Refused:
			return nil, err
		default:
			failed = err
		}
	}
	if len(healthy) == 0 {
		return nil, fail(Unreachable, failed, "No member of etcd is healthy")
	}
	slices.SortStableFunc(healthy, func(a, b member) int {
		switch {
		case a.leader == b.leader:
			return 0
		case a.leader:
			return 1
		}
		return -1
	})
	return healthy, nil
}

// look asks a member how it is.
func (e *etcdSource) look(ctx context.Context, endpoint string) (member, error) {
	client, err := e.dial(ctx, endpoint)
	if err != nil {
		return member{}, err
	}
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	alarms, err := client.AlarmList(ctx)
	if err != nil {
		return member{}, err
	}
	for _, alarm := range alarms.Alarms {
		// A full etcd (NOSPACE) can be backed up.
		if alarm.Alarm == pb.AlarmType_CORRUPT {
			return member{}, fail(Refused, nil,
				"etcd has the alarm CORRUPT: its members do not have the same data, so that no backup of one is worth anything. "+
					"See https://etcd.io/docs/v3.6/op-guide/data_corruption/")
		}
	}
	status, err := client.Status(ctx, endpoint)
	if err != nil {
		return member{}, err
	}
	if status.IsLearner || status.Leader == 0 {
		return member{}, errors.New("a member of etcd is a learner, or has no leader")
	}
	return member{endpoint: endpoint, leader: status.Leader == status.Header.MemberId}, nil
}

// Where Vault keeps, in plaintext, how many keys unseal it: those of its recovery where a key service
// does.
// https://github.com/hashicorp/vault/blob/v1.21.0/vault/seal.go
const (
	sealConfig     = "core/seal-config"
	recoveryConfig = "core/recovery-config"
)

// keys reads what Vault itself reads to ask for keys.
func (e *etcdSource) keys(ctx context.Context) (shares, threshold int) {
	client, err := e.dial(ctx, e.Endpoints...)
	if err != nil {
		return 0, 0
	}
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	var config struct {
		Shares    int `json:"secret_shares"`
		Threshold int `json:"secret_threshold"`
	}
	for _, name := range []string{recoveryConfig, sealConfig} {
		found, err := client.Get(ctx, e.prefix()+name)
		if err != nil {
			return 0, 0
		}
		if len(found.Kvs) > 0 && json.Unmarshal(found.Kvs[0].Value, &config) == nil && config.Threshold > 0 {
			break
		}
	}
	return config.Shares, config.Threshold
}

// open starts a snapshot of a member.
func (e *etcdSource) open(ctx context.Context, endpoint string) (*snapshot, error) {
	client, err := e.dial(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	// The member has to have what any other has confirmed: such a read waits for that.
	limited, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	_, err = client.Get(limited, e.prefix(), clientv3.WithCountOnly())
	if err == nil {
		var response *clientv3.SnapshotResponse
		if response, err = client.SnapshotWithVersion(ctx); err == nil {
			return &snapshot{Reader: response.Snapshot, format: formatEtcd, close: func() error {
				return errors.Join(response.Snapshot.Close(), client.Close())
			}}, nil
		}
	}
	_ = client.Close()
	return nil, fail("", err, "%s", fmt.Sprintf("etcd at %s gives no snapshot", printable(endpoint)))
}
