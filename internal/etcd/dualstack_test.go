package etcd

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// A member whose pod has addresses of both families is reached at the one that Kubernetes puts first.
// https://kubernetes.io/docs/concepts/services-networking/dual-stack/
func TestMemberWithTwoAddresses(t *testing.T) {
	for name, test := range map[string]struct {
		podIPs         []corev1.PodIP
		health, client string
	}{
		"IPv4 first": {
			[]corev1.PodIP{{IP: "10.244.1.7"}, {IP: "fd00:10:244:1::7"}}, "10.244.1.7:2381", "https://10.244.1.7:2379",
		},
		"IPv6 first": {
			[]corev1.PodIP{{IP: "fd00:10:244:1::7"}, {IP: "10.244.1.7"}},
			"[fd00:10:244:1::7]:2381", "https://[fd00:10:244:1::7]:2379",
		},
	} {
		pod := member("a", "vault-etcd-0", test.podIPs[0].IP, corev1.PodRunning)
		pod.Status.PodIPs = test.podIPs
		if got := newTarget(pod).address; got != test.health {
			t.Errorf("%s: its health is read at %s, want %s", name, got, test.health)
		}
		m, err := NewMember(pod, nil)
		if err != nil {
			t.Fatal(err)
		}
		if m.address != test.client {
			t.Errorf("%s: it is called at %s, want %s", name, m.address, test.client)
		}
	}
}
