package etcd

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// defragmentTimeout is how long a member may take. The kubelet has restarted one that is away
// for as long as that.
const defragmentTimeout = 2 * time.Minute

// updateTimeout is how long etcd may take to agree on a change of a member.
const updateTimeout = 10 * time.Second

// Member is a member of etcd that is asked to do something, as Vault would be: by its
// certificate. It speaks the JSON that etcd has beside gRPC.
// https://etcd.io/docs/v3.6/dev-guide/api_grpc_gateway/
type Member struct {
	name, address string
	client        *http.Client
}

// NewMember returns the member of a pod. The configuration has the certificate to show, and what
// to verify the member's by.
func NewMember(pod *corev1.Pod, config *tls.Config) (*Member, error) {
	if pod.Status.PodIP == "" {
		return nil, fmt.Errorf("pod %s has no address", pod.Name)
	}
	return &Member{
		name:    pod.Name,
		address: "https://" + net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(v1alpha1.EtcdClientPort)),
		client: &http.Client{
			// Pods are reached directly, whatever the operator's environment says of proxies.
			Transport: &http.Transport{
				TLSClientConfig: config, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 16 << 10,
				TLSHandshakeTimeout: timeout, // it goes on when nobody waits for it any more
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Defragment gives the space that is free within the member's database back to the volume. It
// serves nothing meanwhile, and goes on with it when nobody waits anymore.
// https://etcd.io/docs/v3.6/op-guide/maintenance/#defragmentation
func (m *Member) Defragment(ctx context.Context) error {
	return m.post(ctx, defragmentTimeout, "maintenance/defragment", struct{}{}, nil)
}

// MoveLeader has the member, which leads, hand over to the one with that ID.
func (m *Member) MoveLeader(ctx context.Context, to string) error {
	id, err := strconv.ParseUint(to, 16, 64)
	if err != nil {
		return fmt.Errorf("the ID of a member: %w", err)
	}
	return m.post(ctx, timeout, "maintenance/transfer-leadership",
		map[string]string{"targetID": strconv.FormatUint(id, 10)}, nil)
}

// alarms are those that members have raised.
type alarms struct {
	Alarms []struct {
		// MemberID is a number that JSON has as text.
		MemberID string `json:"memberID"`
		Alarm    string `json:"alarm"`
	} `json:"alarms"`
}

// Disarm takes the alarm NoSpace back, which all members have raised that had no room.
func (m *Member) Disarm(ctx context.Context) error {
	var raised alarms
	if err := m.post(ctx, timeout, "maintenance/alarm", map[string]string{"action": "GET"}, &raised); err != nil {
		return err
	}
	if len(raised.Alarms) > 2*maxMembers {
		return errors.New("more alarms than members can raise")
	}
	for _, alarm := range raised.Alarms {
		if alarm.Alarm != NoSpace {
			continue
		}
		if _, err := strconv.ParseUint(alarm.MemberID, 10, 64); err != nil {
			return errors.New("the alarm has no member")
		}
		err := m.post(ctx, timeout, "maintenance/alarm",
			map[string]string{"action": "DEACTIVATE", "memberID": alarm.MemberID, "alarm": NoSpace}, nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// CountAgain has all members write to their databases, whether there is room or not: etcd counts
// what a write has freed as in use until it writes again, which with the alarm NoSpace it may
// never do. What is written is the addresses of this member, as they are; that is no change.
// https://etcd.io/docs/v3.6/op-guide/runtime-configuration/#update-advertise-peer-urls
func (m *Member) CountAgain(ctx context.Context) error {
	var list struct {
		Members []struct {
			ID       string   `json:"ID"`
			Name     string   `json:"name"`
			PeerURLs []string `json:"peerURLs"`
		} `json:"members"`
	}
	if err := m.post(ctx, timeout, "cluster/member/list", map[string]bool{"linearizable": true}, &list); err != nil {
		return err
	}
	for _, member := range list.Members {
		if member.Name != m.name {
			continue
		}
		if _, err := strconv.ParseUint(member.ID, 10, 64); err != nil || len(member.PeerURLs) == 0 {
			return errors.New("the member has no ID or no addresses")
		}
		return m.post(ctx, updateTimeout, "cluster/member/update",
			map[string]any{"ID": member.ID, "peerURLs": member.PeerURLs}, nil)
	}
	return errors.New("the member does not list itself")
}

// post makes a request of etcd's API. What a member says in a response that is an error is not
// told: it could be anything.
func (m *Member) post(ctx context.Context, limit time.Duration, what string, body, result any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, m.address+"/v3/"+what,
		bytes.NewReader(text))
	if err != nil {
		return err
	}
	response, err := m.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: the response has the HTTP status %d", what, response.StatusCode)
	}
	if result == nil {
		return nil
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, response.Body, 16<<10)).Decode(result); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
