package etcd

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

const (
	// viewFor is how long a response about the members is taken for true: they change
	// only when an administrator replaces one, or a pod starts anew.
	viewFor = 5 * time.Minute
	// maxMetrics is how much of the metrics is read, about ten times what etcd has.
	maxMetrics = 2 << 20
	// maxMembers is how many members a cluster may have before more is not believed.
	maxMembers = 16
)

// target is a pod to read from.
type target struct {
	name, address string
	// run is another when the pod, or its container, is another.
	run string
}

// seen are the IDs of all members that a member knows, itself included, and the run
// of the member that said so. On this port etcd does not tell the ID of the cluster,
// which would not help either: etcd derives it from the addresses of the members.
type seen struct {
	run     string
	at      time.Time
	members []string
}

func newTarget(pod *corev1.Pod) target {
	t := target{
		name: pod.Name, address: net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(v1alpha1.EtcdHealthPort)),
		run: string(pod.UID),
	}
	for _, container := range pod.Status.ContainerStatuses {
		t.run += "/" + container.ContainerID
	}
	return t
}

// Disagreement says which members of the Vault's etcd are of which cluster; it is
// empty when all that answered are of one, or none did.
func (a *Alarms) Disagreement(vault *v1alpha1.Vault) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return disagreement(a.views[client.ObjectKeyFromObject(vault)], vault.WantedMembers())
}

// disagreement compares what members say. One cluster with more members than wanted
// disagrees as well: its quorum is another.
func disagreement(views map[string]seen, wanted int) string {
	byCluster := map[string][]string{}
	for name, view := range views {
		cluster := strings.Join(view.members, ",")
		byCluster[cluster] = append(byCluster[cluster], name)
	}
	most := 0
	for cluster := range byCluster {
		most = max(most, strings.Count(cluster, ",")+1)
	}
	if len(byCluster) < 2 && most <= wanted {
		return ""
	}
	var parts []string
	for cluster, names := range byCluster {
		slices.Sort(names)
		parts = append(parts, fmt.Sprintf("%s of a cluster of %d", strings.Join(names, ", "), strings.Count(cluster, ",")+1))
	}
	slices.Sort(parts)
	return strings.Join(parts, "; ")
}

// viewsOf reads from the members which others they know: from those that were not read
// since they started, and all of them when they disagree, since one may have
// responded before a member was replaced.
func (a *Alarms) viewsOf(ctx context.Context, vault types.NamespacedName, members []target) map[string]seen {
	a.mu.Lock()
	views := maps.Clone(a.views[vault])
	a.mu.Unlock()
	maps.DeleteFunc(views, func(name string, view seen) bool {
		return time.Since(view.at) > viewFor || !slices.ContainsFunc(members, func(m target) bool {
			return m.name == name && m.run == view.run
		})
	})
	views = a.viewMissing(ctx, members, views)
	if disagreement(views, maxMembers) != "" {
		views = a.viewMissing(ctx, members, nil)
	}
	return views
}

func (a *Alarms) viewMissing(ctx context.Context, members []target, views map[string]seen) map[string]seen {
	result := map[string]seen{}
	maps.Copy(result, views)
	for _, m := range members {
		if _, known := result[m.name]; known {
			continue
		}
		if report, err := a.report(ctx, m.address); err == nil {
			result[m.name] = seen{run: m.run, at: time.Now(), members: report.Members}
		}
	}
	return result
}

func sameMembers(a, b seen) bool { return slices.Equal(a.members, b.members) }

// Report is what a member says of itself.
type Report struct {
	// ID is its own, and Members are those of all members that it knows, itself included.
	ID      string
	Members []string
	// Voter says that it is no learner, HasLeader that it knows a leader, Leader that it is the
	// one.
	Voter, HasLeader, Leader bool
	// Alarm is what has been raised in the cluster, or nothing.
	Alarm string
	// Size is that of the database in bytes, InUse is what is used of it, and Quota how large
	// it may become before no more is written.
	Size, InUse, Quota int64
}

// Look asks the etcd member of a pod now.
func (a *Alarms) Look(ctx context.Context, pod *corev1.Pod) (Report, error) {
	if pod.Status.PodIP == "" {
		return Report{}, fmt.Errorf("pod %s has no address", pod.Name)
	}
	address := newTarget(pod).address
	report, err := a.report(ctx, address)
	if err != nil {
		return Report{}, err
	}
	report.Alarm, err = a.alarm(ctx, address)
	return report, err
}

// https://etcd.io/docs/v3.6/metrics/
var (
	serverID  = regexp.MustCompile(`^etcd_server_id\{server_id="([0-9a-f]{1,16})"\} 1$`)
	knownPeer = regexp.MustCompile(`^etcd_network_known_peers\{Local="[0-9a-f]{1,16}",Remote="([0-9a-f]{1,16})"\} 1$`)
	gauge     = regexp.MustCompile(`^(etcd_[a-z_]+) ([0-9.e+]{1,32})$`)
)

// report reads from its metrics what a member says of itself, all but the alarms. One that
// has not learnt yet who it is answers with an error.
func report(ctx context.Context, client *http.Client, address string) (Report, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return Report{}, err
	}
	response, err := client.Do(request)
	if err != nil {
		return Report{}, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return Report{}, fmt.Errorf("the metrics of %s: %s", address, response.Status)
	}
	var r Report
	lines := bufio.NewScanner(http.MaxBytesReader(nil, response.Body, maxMetrics))
	for lines.Scan() && len(r.Members) <= maxMembers {
		if match := serverID.FindStringSubmatch(lines.Text()); match != nil {
			r.ID = match[1]
		}
		if match := knownPeer.FindStringSubmatch(lines.Text()); match != nil {
			r.Members = append(r.Members, match[1])
		}
		if match := gauge.FindStringSubmatch(lines.Text()); match != nil {
			r.set(match[1], match[2])
		}
	}
	if err := lines.Err(); err != nil {
		return Report{}, fmt.Errorf("the metrics of %s: %w", address, err)
	}
	slices.Sort(r.Members)
	r.Members = slices.Compact(r.Members)
	if !slices.Contains(r.Members, r.ID) || len(r.Members) > maxMembers {
		return Report{}, fmt.Errorf("the metrics of %s do not tell the members", address)
	}
	return r, nil
}

// set takes over a gauge. What a member does not tell stays as if it could not be relied on.
func (r *Report) set(name, text string) {
	value, err := strconv.ParseFloat(text, 64)
	if err != nil || value > 1<<53 {
		return
	}
	switch name {
	case "etcd_server_is_learner":
		r.Voter = value == 0
	case "etcd_server_has_leader":
		r.HasLeader = value == 1
	case "etcd_server_is_leader":
		r.Leader = value == 1
	case "etcd_mvcc_db_total_size_in_bytes":
		r.Size = int64(value)
	case "etcd_mvcc_db_total_size_in_use_in_bytes":
		r.InUse = int64(value)
	case "etcd_server_quota_backend_bytes":
		r.Quota = int64(value)
	}
}
