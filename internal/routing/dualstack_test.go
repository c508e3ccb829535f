package routing

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// A pod that has addresses of both families is probed at the one that Kubernetes puts first, at which the kubelet
// reaches it as well.
// https://kubernetes.io/docs/concepts/services-networking/dual-stack/
func TestTargetOfAPodWithTwoAddresses(t *testing.T) {
	for name, test := range map[string]struct {
		podIPs []corev1.PodIP
		want   string
	}{
		"IPv4 first": {[]corev1.PodIP{{IP: "10.244.1.7"}, {IP: "fd00:10:244:1::7"}}, "10.244.1.7:8200"},
		"IPv6 first": {[]corev1.PodIP{{IP: "fd00:10:244:1::7"}, {IP: "10.244.1.7"}}, "[fd00:10:244:1::7]:8200"},
		"IPv4 alone": {[]corev1.PodIP{{IP: "10.244.1.7"}}, "10.244.1.7:8200"},
		"IPv6 alone": {[]corev1.PodIP{{IP: "fd00:10:244:1::7"}}, "[fd00:10:244:1::7]:8200"},
	} {
		vault := newVault()
		pod := newPod(vault, "a", test.podIPs[0].IP, false)
		pod.Status.PodIPs = test.podIPs
		targets := targetsOf(vault, []corev1.Pod{*pod}, nil)
		if len(targets) != 1 || targets[0].Address != test.want {
			t.Errorf("%s: the targets are %+v, want one at %s", name, targets, test.want)
		}
	}
}
