// Package etcd asks the etcd of each Vault what the readiness of its pods
// does not tell: whether it has raised an alarm, and so refuses to write, and
// whether its members are of one cluster. It also makes the requests by which package members
// defragments members.
package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/notify"
)

// NoSpace is the alarm of an etcd whose database has grown to its quota.
// https://etcd.io/docs/v3.6/op-guide/maintenance/#space-quota
const NoSpace = "NOSPACE"

// Corrupt is the alarm of an etcd whose members have found out that their data differ.
const Corrupt = "CORRUPT"

const (
	// pause between two rounds of requests.
	pause = 10 * time.Second
	// timeout of one request.
	timeout = 2 * time.Second
	// concurrency is how many Vaults are looked at at the same time.
	concurrency = 16
	// lookFor is how long one Vault is looked at: pods without a response must not make others wait.
	lookFor = 10 * time.Second
)

// Alarms knows the alarms that the etcd clusters of all Vaults have raised. An
// alarm lasts until it is disarmed, so it is enough to look now and then.
type Alarms struct {
	// pods are read from a cache.
	pods client.Reader
	// alarm reads the alarm that a member knows of.
	alarm func(ctx context.Context, address string) (alarm string, err error)
	// report reads what a member says of itself.
	report func(ctx context.Context, address string) (Report, error)

	mu     sync.Mutex
	raised map[types.NamespacedName]string
	// views are what the members of each Vault have said last.
	views map[types.NamespacedName]map[string]seen
	news  notify.Notifier
}

// NewAlarms returns Alarms that know of none yet.
func NewAlarms(reader client.Reader) *Alarms {
	// A member is read from so rarely that a connection is not worth keeping.
	client := &http.Client{
		Timeout:   timeout,
		Transport: &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10},
		// No response may redirect the operator to another address.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &Alarms{
		pods:   reader,
		alarm:  func(ctx context.Context, address string) (string, error) { return alarm(ctx, client, address) },
		report: func(ctx context.Context, address string) (Report, error) { return report(ctx, client, address) },
	}
}

// Raised returns the alarm that the etcd of a Vault has raised, or nothing.
func (a *Alarms) Raised(vault types.NamespacedName) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.raised[vault]
}

// Source makes a controller reconcile a Vault when an alarm is raised or
// disarmed.
func (a *Alarms) Source() source.Source {
	return a.news.Source(0)
}

// NeedLeaderElection says that every replica looks, since every replica may have
// to write the status.
func (a *Alarms) NeedLeaderElection() bool { return false }

// Start looks in rounds until the context ends.
func (a *Alarms) Start(ctx context.Context) error {
	wait.NonSlidingUntilWithContext(ctx, func(ctx context.Context) {
		if err := a.round(ctx); err != nil && ctx.Err() == nil {
			log.FromContext(ctx).Error(err, "The alarms of etcd could not be read")
		}
	}, pause)
	return nil
}

// round reads from one member of each etcd that has one which responds: all members
// know the alarms of all.
func (a *Alarms) round(ctx context.Context) error {
	var list corev1.PodList
	if err := a.pods.List(ctx, &list, client.MatchingLabels{
		v1alpha1.NameLabel: v1alpha1.AppName, v1alpha1.ComponentLabel: v1alpha1.EtcdComponent,
	}); err != nil {
		return fmt.Errorf("listing the pods of etcd: %w", err)
	}
	members := map[types.NamespacedName][]target{}
	for i := range list.Items {
		pod := &list.Items[i]
		if pod.Status.PodIP != "" && pod.Status.Phase == corev1.PodRunning {
			vault := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Labels[v1alpha1.InstanceLabel]}
			members[vault] = append(members[vault], newTarget(pod))
		}
	}
	var looks sync.WaitGroup
	var mu sync.Mutex
	turns := make(chan struct{}, concurrency)
	raised := map[types.NamespacedName]string{}
	views := map[types.NamespacedName]map[string]seen{}
	for vault, pods := range members {
		turns <- struct{}{}
		looks.Go(func() {
			defer func() { <-turns }()
			ctx, cancel := context.WithTimeout(ctx, lookFor)
			defer cancel()
			pods = pods[:min(len(pods), maxMembers)]
			alarm := a.alarmOf(ctx, vault, pods)
			view := a.viewsOf(ctx, vault, pods)
			mu.Lock()
			defer mu.Unlock()
			raised[vault], views[vault] = alarm, view
		})
	}
	looks.Wait()
	a.replace(raised, views)
	return nil
}

// alarmOf reads from members until one responds. When none does nothing is new.
func (a *Alarms) alarmOf(ctx context.Context, vault types.NamespacedName, members []target) string {
	for i := range members {
		if alarm, err := a.alarm(ctx, members[i].address); err == nil {
			return alarm
		}
	}
	return a.Raised(vault)
}

// replace takes over what a round found, and calls for the Vaults it is news of.
func (a *Alarms) replace(raised map[types.NamespacedName]string, views map[types.NamespacedName]map[string]seen) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before, viewsBefore := a.raised, a.views
	a.raised, a.views = raised, views
	for vault, alarm := range raised {
		if alarm == before[vault] && maps.EqualFunc(views[vault], viewsBefore[vault], sameMembers) {
			continue
		}
		a.news.Notify(vault)
	}
}

// alarm reads the health of a member as far as it knows by itself, which includes
// the alarms: it responds also without a quorum.
// https://etcd.io/docs/v3.6/op-guide/monitoring/#health-check
func alarm(ctx context.Context, client *http.Client, address string) (alarm string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/health?serializable=true", nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if response.StatusCode/100 == 3 {
		return "", fmt.Errorf("the health of %s: %s", address, response.Status)
	}
	var health struct{ Health, Reason string }
	if err := json.NewDecoder(http.MaxBytesReader(nil, response.Body, 1<<10)).Decode(&health); err != nil {
		return "", fmt.Errorf("the health of %s: %w", address, err)
	}
	alarm, _ = strings.CutPrefix(health.Reason, "ALARM ")
	if alarm == health.Reason {
		return "", nil // it is healthy, or unhealthy for another reason
	}
	return alarm, nil
}
