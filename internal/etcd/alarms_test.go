package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/testing/poll"
)

func TestAlarm(t *testing.T) {
	for name, test := range map[string]struct {
		status      int
		body, alarm string
		fails       bool
	}{
		"healthy":        {status: 200, body: `{"health":"true","reason":""}`},
		"an alarm":       {status: 503, body: `{"health":"false","reason":"ALARM NOSPACE"}`, alarm: NoSpace},
		"ill without it": {status: 503, body: `{"health":"false","reason":"RANGE ERROR:etcdserver: request timed out"}`},
		"not etcd":       {status: 404, body: "404 page not found", fails: true},
		"endless":        {status: 200, body: strings.Repeat(" ", 1<<11) + `{"health":"true"}`, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.String() != "/health?serializable=true" {
					t.Errorf("asked for %s", r.URL)
				}
				w.WriteHeader(test.status)
				_, _ = w.Write([]byte(test.body)) // the client may have had enough
			}))
			defer server.Close()
			got, err := alarm(t.Context(), server.Client(), strings.TrimPrefix(server.URL, "http://"))
			if got != test.alarm || (err != nil) != test.fails {
				t.Errorf("alarm %q, error %v", got, err)
			}
		})
	}
}

func member(namespace, name, ip string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{
			v1alpha1.NameLabel: v1alpha1.AppName, v1alpha1.InstanceLabel: "vault",
			v1alpha1.ComponentLabel: v1alpha1.EtcdComponent,
		}},
		Status: corev1.PodStatus{PodIP: ip, Phase: phase},
	}
}

// TestManySilentPods has a tenant who gives pods the labels of etcd, which respond to nothing.
func TestManySilentPods(t *testing.T) {
	builder := fake.NewClientBuilder()
	for i := range 100 {
		builder.WithObjects(member("a", fmt.Sprint("vault-etcd-", i), fmt.Sprint("10.0.1.", i), corev1.PodRunning))
	}
	alarms := NewAlarms(builder.Build())
	asked, hurried := 0, true
	ask := func(ctx context.Context) error {
		asked++
		end, limited := ctx.Deadline()
		hurried = hurried && limited && time.Until(end) <= lookFor
		return errors.New("no answer")
	}
	alarms.alarm = func(ctx context.Context, _ string) (string, error) { return "", ask(ctx) }
	alarms.report = func(ctx context.Context, _ string) (Report, error) { return Report{}, ask(ctx) }
	if err := alarms.round(t.Context()); err != nil || asked > 2*maxMembers || !hurried {
		t.Errorf("%d requests, each with a deadline: %t, error %v", asked, hurried, err)
	}
}

func TestRounds(t *testing.T) {
	server := member("a", "vault-0", "10.0.0.9", corev1.PodRunning)
	server.Labels[v1alpha1.ComponentLabel] = v1alpha1.ServerComponent
	responses := map[string]string{} // by address; who is not in it does not answer
	alarms := NewAlarms(fake.NewClientBuilder().WithObjects(
		member("a", "vault-etcd-0", "10.0.0.1", corev1.PodRunning),
		member("a", "vault-etcd-1", "10.0.0.2", corev1.PodRunning),
		member("a", "vault-etcd-2", "", corev1.PodPending),
		member("b", "vault-etcd-0", "10.0.0.3", corev1.PodRunning),
		member("b", "vault-etcd-1", "10.0.0.4", corev1.PodFailed),
		server,
	).Build())
	alarms.alarm = func(_ context.Context, address string) (string, error) {
		if alarm, responds := responses[address]; responds {
			return alarm, nil
		}
		return "", errors.New("no answer")
	}
	alarms.report = func(context.Context, string) (Report, error) { return Report{}, errors.New("no answer") }
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	defer queue.ShutDown()
	if err := alarms.Source().Start(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	a, b := types.NamespacedName{Namespace: "a", Name: "vault"}, types.NamespacedName{Namespace: "b", Name: "vault"}

	for _, round := range []struct {
		name      string
		responses map[string]string
		a, b      string
		news      int
	}{
		{name: "nobody answers"},
		{name: "no alarm", responses: map[string]string{"10.0.0.1:2381": "", "10.0.0.3:2381": ""}},
		{
			name:      "one raises an alarm",
			responses: map[string]string{"10.0.0.1:2381": "", "10.0.0.3:2381": NoSpace, "10.0.0.4:2381": "X"}, b: NoSpace,
			news: 1,
		},
		{
			name: "it has not been disarmed", responses: map[string]string{"10.0.0.1:2381": "", "10.0.0.3:2381": NoSpace},
			b: NoSpace,
		},
		{
			name:      "nor when it does not answer; another asks its second member",
			responses: map[string]string{"10.0.0.2:2381": NoSpace, "10.0.0.9:2381": "X"}, a: NoSpace, b: NoSpace, news: 1,
		},
		{name: "both are disarmed", responses: map[string]string{"10.0.0.2:2381": "", "10.0.0.3:2381": ""}, news: 2},
	} {
		responses = round.responses
		if err := alarms.round(t.Context()); err != nil {
			t.Fatal(err)
		}
		if alarms.Raised(a) != round.a || alarms.Raised(b) != round.b {
			t.Errorf("%s: alarms %q and %q", round.name, alarms.Raised(a), alarms.Raised(b))
		}
		if queue.Len() != round.news {
			t.Errorf("%s: %d Vaults reconciled, want %d", round.name, queue.Len(), round.news)
		}
		for queue.Len() > 0 {
			request, _ := queue.Get()
			queue.Done(request)
		}
	}
}

// The alarm and the members are read from a member that has an address of IPv6.
func TestMemberWithAnAddressOfIPv6(t *testing.T) {
	if listener, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Skipf("this machine has no IPv6: %v", err)
	} else {
		_ = listener.Close() // it has shown what it was for
	}
	var listener net.Listener
	poll.Eventually(t, "the port is free", time.Minute, 100*time.Millisecond, func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort("::1", strconv.Itoa(v1alpha1.EtcdHealthPort)))
		return err
	})
	server := &httptest.Server{Listener: listener, Config: &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			response := `{"health":"false","reason":"ALARM NOSPACE"}`
			if r.URL.Path == "/metrics" {
				response = metrics
			}
			_, _ = w.Write([]byte(response)) // the client may have had enough
		}),
	}}
	server.Start()
	defer server.Close()
	alarms := NewAlarms(fake.NewClientBuilder().WithObjects(member("a", "vault-etcd-0", "::1", corev1.PodRunning)).Build())
	if err := alarms.round(t.Context()); err != nil {
		t.Fatal(err)
	}
	vault := types.NamespacedName{Namespace: "a", Name: "vault"}
	alarm, views := alarms.Raised(vault), alarms.views[vault]
	if alarm != NoSpace || len(views["vault-etcd-0"].members) != 2 {
		t.Errorf("the alarm is %q, and it knows %+v", alarm, views)
	}
}
