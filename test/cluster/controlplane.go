package main

import (
	"context"
	"os"
	"time"
)

// startControlPlane starts etcd, the API server, its forwarder on loopback, the
// controller manager, the scheduler, CoreDNS and the volume provisioner.
func startControlPlane(ctx context.Context) error {
	if err := start("etcd", controlPlane, bin("etcd"),
		"--data-dir="+statePath("etcd"), "--log-level=warn",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380"); err != nil {
		return err
	}
	if err := start("kube-apiserver", controlPlane, apiServerArgs()...); err != nil {
		return err
	}
	if err := start("forward", "", statePath("cluster"), "forward"); err != nil {
		return err
	}
	err := await(ctx, "API server ready", "kube-apiserver", 2*time.Minute, func() error {
		_, err := kubectl(ctx, "get", "--raw", "/readyz")
		return err
	})
	if err != nil {
		return err
	}
	user := func(name string) []string {
		file := kubeconfigPath(name)
		return []string{"--kubeconfig=" + file, "--authentication-kubeconfig=" + file, "--authorization-kubeconfig=" + file,
			"--bind-address=127.0.0.1", "--leader-elect=false"}
	}
	if err := start("kube-controller-manager", controlPlane, append([]string{bin("kube-controller-manager"),
		"--cluster-signing-cert-file=" + pki("ca.crt"), "--cluster-signing-key-file=" + pki("ca.key"),
		"--root-ca-file=" + pki("ca.crt"), "--service-account-private-key-file=" + pki("service-account.key"),
		"--use-service-account-credentials=true", "--cluster-cidr=" + podCIDR,
	}, user("system:kube-controller-manager")...)...); err != nil {
		return err
	}
	if err := start("kube-scheduler", controlPlane, append([]string{bin("kube-scheduler")},
		user("system:kube-scheduler")...)...); err != nil {
		return err
	}
	if err := writeConfig(statePath("Corefile"), corefile); err != nil {
		return err
	}
	if err := start("coredns", controlPlane, bin("coredns"), "-conf", statePath("Corefile")); err != nil {
		return err
	}
	return start("provision", "", statePath("cluster"), "provision")
}

func apiServerArgs() []string {
	return []string{bin("kube-apiserver"),
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address=" + controlPlaneIP, "--secure-port=6443",
		"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
		"--client-ca-file=" + pki("ca.crt"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		// The control plane has no route to Services: it goes to their endpoints.
		"--enable-aggregator-routing=true",
		"--service-cluster-ip-range=" + serviceCIDR,
		"--service-account-issuer=https://kubernetes.default.svc." + clusterDomain,
		"--service-account-key-file=" + pki("service-account.key"),
		"--service-account-signing-key-file=" + pki("service-account.key"),
		"--kubelet-certificate-authority=" + pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--kubelet-client-certificate=" + pki("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + pki("apiserver-kubelet-client.key"),
		"--requestheader-client-ca-file=" + pki("ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + pki("front-proxy-client.crt"),
		"--proxy-client-key-file=" + pki("front-proxy-client.key"),
	}
}

// corefile is what kubeadm gives to CoreDNS, but that there are no names outside the cluster.
// https://kubernetes.io/docs/tasks/administer-cluster/dns-custom-nameservers/
var corefile = clusterDomain + `:53 in-addr.arpa:53 ip6.arpa:53 {
    bind ` + controlPlaneIP + `
    errors
    kubernetes ` + clusterDomain + ` in-addr.arpa ip6.arpa {
        kubeconfig ` + kubeconfigPath("coredns") + `
        pods insecure
        ttl 30
    }
    cache 30 {
        disable success ` + clusterDomain + `
        disable denial ` + clusterDomain + `
    }
}
.:53 {
    bind ` + controlPlaneIP + `
    template ANY ANY {
        rcode NXDOMAIN
    }
}
`

// manifests are the DNS Service, whose only endpoint is the CoreDNS process (so
// that DNS stays when a test takes a node away), what processes of the cluster may read, and the default StorageClass.
const manifests = `
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: ` + dnsServiceIP + `
  ports:
  - {name: dns, port: 53, protocol: UDP}
  - {name: dns-tcp, port: 53, protocol: TCP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: kube-dns
  namespace: kube-system
  labels: {kubernetes.io/service-name: kube-dns}
addressType: IPv4
endpoints:
- addresses: [` + controlPlaneIP + `]
ports:
- {name: dns, port: 53, protocol: UDP}
- {name: dns-tcp, port: 53, protocol: TCP}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: coredns}
rules:
- {apiGroups: [""], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: coredns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: coredns}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: coredns}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: ` + kubeRouter + `}
rules:
- {apiGroups: [""], resources: [endpoints, namespaces, nodes, pods, services], verbs: [get, list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
- {apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: ` + kubeRouter + `}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: ` + kubeRouter + `}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: ` + kubeRouter + `}]
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: local
  annotations: {storageclass.kubernetes.io/is-default-class: "true"}
provisioner: ` + provisionerName + `
volumeBindingMode: WaitForFirstConsumer
allowVolumeExpansion: true
`

func applyManifests(ctx context.Context) error {
	if err := os.WriteFile(statePath("manifests.yaml"), []byte(manifests), 0o644); err != nil {
		return err
	}
	_, err := kubectl(ctx, "apply", "-f", statePath("manifests.yaml"))
	return err
}

func kubectl(ctx context.Context, args ...string) (string, error) {
	return output(ctx, append([]string{bin("kubectl"), "--kubeconfig=" + adminKubeconfig()}, args...)...)
}

// up starts what of the cluster does not run.
func up(ctx context.Context) error {
	if err := requireRoot(); err != nil {
		return err
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := ensureDebianPackages(ctx); err != nil {
		return err
	}
	if err := ensureParts(ctx, clusterParts()); err != nil {
		return err
	}
	if err := link(bin("vault-"+vaultVersion), bin("vault")); err != nil {
		return err
	}
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return err
	}
	for _, dir := range []string{"pki", "logs", "processes", "volumes"} {
		if err := os.MkdirAll(statePath(dir), 0o755); err != nil {
			return err
		}
	}
	if err := recordSysctls(); err != nil {
		return err
	}
	// The processes of the cluster outlive the binary that "go run" makes.
	if err := installSelf(); err != nil {
		return err
	}
	if err := ensureCertificates(); err != nil {
		return err
	}
	if err := ensureNetwork(ctx); err != nil {
		return err
	}
	if err := startControlPlane(ctx); err != nil {
		return err
	}
	if err := applyManifests(ctx); err != nil {
		return err
	}
	if err := startNodes(ctx); err != nil {
		return err
	}
	return ensureImages(ctx, clusterImages())
}
