package chart

import (
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestDualStack looks at what is rendered for pods that have addresses of both families. An address in it is the
// one that Kubernetes puts first, status.podIP, by which the operator and the kubelet reach the pod, and what
// listens does so there.
// https://kubernetes.io/docs/concepts/services-networking/dual-stack/
func TestDualStack(t *testing.T) {
	for name, test := range map[string]struct {
		ipv6   string
		podIPs []string
	}{
		"IPv4 first": {"false", []string{"10.244.1.7", "fd00:10:244:1::7"}},
		"IPv6 first": {"true", []string{"fd00:10:244:1::7", "10.244.1.7"}},
	} {
		t.Run(name, func(t *testing.T) {
			first := netip.MustParseAddr(test.podIPs[0])
			etcd := release{values: `{operated: true, ipv6: ` + test.ipv6 + `}`}.render(t)
			requireClusterAddress(t, &etcd.vault.Spec.Template.Spec, test.podIPs[0], test.podIPs[0])
			requireListeners(t, string(etcd.config.Data["operator.hcl"]))
			requireEtcdListens(t, &etcd.etcd.Spec.Template.Spec, first)

			external := release{values: `{operated: true, ipv6: ` + test.ipv6 + `, storage: {external: {type: postgresql, ` +
				`highAvailability: true}}, configSecret: {name: example-vault-config-1, keys: [storage.hcl]}}`}.render(t)
			requireClusterAddress(t, &external.vault.Spec.Template.Spec, test.podIPs[0], test.podIPs[0])
			requireListeners(t, string(external.config.Data["operator.hcl"]))

			// These tell each other names, which stay when a pod is replaced.
			raft := release{values: `{operated: true, ipv6: ` + test.ipv6 + `, nodes: 3, storage: {raft: {}}}`}.render(t)
			requireClusterAddress(t, &raft.etcd.Spec.Template.Spec, test.podIPs[0], "example-0.example-nodes.default.svc")
			requireListeners(t, string(raft.config.Data["operator.hcl"]))
		})
	}
}

// requireClusterAddress fails when a node whose pod has that address first would tell the others another address
// than one with that host, or clients another one than that of the Service.
func requireClusterAddress(t *testing.T, pod *corev1.PodSpec, podIP, host string) {
	t.Helper()
	env := map[string]corev1.EnvVar{}
	for _, variable := range pod.Containers[0].Env {
		env[variable.Name] = variable
	}
	if strings.Contains(env["VAULT_CLUSTER_ADDR"].Value, "$(POD_IP)") {
		if source := env["POD_IP"].ValueFrom; source == nil || source.FieldRef.FieldPath != "status.podIP" {
			t.Errorf("POD_IP is %+v", env["POD_IP"])
		}
	}
	// As the kubelet does.
	expand := strings.NewReplacer("$(POD_IP)", podIP, "$(POD_NAME)", "example-0")
	for name, want := range map[string]string{
		"VAULT_CLUSTER_ADDR": net.JoinHostPort(host, "8201"),
		"VAULT_API_ADDR":     "example.default.svc:8200",
	} {
		value := expand.Replace(env[name].Value)
		if parsed, err := url.Parse(value); err != nil || parsed.Scheme != "https" || parsed.Host != want {
			t.Errorf("%s is %q (%v), want https://%s", name, value, err, want)
		}
	}
}

var listensAt = regexp.MustCompile(`(?m)^  (address|cluster_address) += "(.*)"$`)

// requireListeners fails when Vault does not listen at all addresses of its pod, of both families.
func requireListeners(t *testing.T, config string) {
	t.Helper()
	listener, _, _ := strings.Cut(config, "\n}\n")
	ports := map[string]string{"address": "8200", "cluster_address": "8201"}
	for _, match := range listensAt.FindAllStringSubmatch(listener, -1) {
		// "::" is what programs in Go take for both families, and "0.0.0.0" for IPv4 alone.
		if want := "[::]:" + ports[match[1]]; match[2] != want {
			t.Errorf("%s is %s, want %s", match[1], match[2], want)
		}
		delete(ports, match[1])
	}
	if len(ports) > 0 {
		t.Errorf("no %v in\n%s", ports, listener)
	}
}

// requireEtcdListens fails when a member of etcd does not listen at that address of its pod, or tells the others an
// address that goes with the pod.
func requireEtcdListens(t *testing.T, pod *corev1.PodSpec, first netip.Addr) {
	t.Helper()
	listens := 0
	for _, argument := range pod.Containers[0].Command {
		flag, value, _ := strings.Cut(argument, "=")
		if !strings.Contains(flag, "-urls") {
			continue
		}
		parsed, err := url.Parse(strings.ReplaceAll(value, "$(POD_NAME)", "example-etcd-0"))
		if err != nil {
			t.Errorf("%s: %v", argument, err)
			continue
		}
		if !strings.HasPrefix(flag, "--listen-") {
			if parsed.Hostname() != "example-etcd-0.example-etcd.default.svc" {
				t.Errorf("%s is no name of the member", argument)
			}
			continue
		}
		listens++
		at, err := netip.ParseAddr(parsed.Hostname())
		if err != nil || !at.IsUnspecified() || at.Is4() && !first.Is4() {
			t.Errorf("%s: etcd does not listen at %s (%v)", argument, first, err)
		}
	}
	if listens != 3 {
		t.Errorf("etcd listens at %d URLs: %q", listens, pod.Containers[0].Command)
	}
}
