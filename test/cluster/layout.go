package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// Addresses of the cluster. All of them exist only in its network namespaces,
// but for loopback, where a process forwards to the API server.
const (
	controlPlaneIP = "10.90.0.1"
	networkBits    = "/24"
	podCIDR        = "10.244.0.0/16"
	serviceCIDR    = "10.96.0.0/16"
	apiServiceIP   = "10.96.0.1"
	dnsServiceIP   = "10.96.0.10"
	forwardAddress = "127.0.0.1:16443"
	clusterDomain  = "cluster.local"
)

// podNetwork is the CNI's name for the network of the pods.
const podNetwork = "vault-operator-cluster"

// controlPlane is the name of the network namespace of the control plane, and
// bridge of the bridge in it that the nodes are joined by.
const (
	namespacePrefix = "vo-"
	controlPlane    = namespacePrefix + "control"
	bridge          = "vo-bridge"
)

// netns is the path of a network namespace.
func netns(namespace string) string { return "/run/netns/" + namespace }

// findNetns is the path of the network namespace of a node, or of the control plane by
// the name "control".
func findNetns(name string) (string, error) {
	if namespacePrefix+name == controlPlane {
		return netns(controlPlane), nil
	}
	n, err := findNode(name)
	return netns(n.namespace()), err
}

// node is a Kubernetes node: a network namespace with a kubelet, a containerd
// and a kube-proxy in it.
type node struct {
	name    string
	ip      string
	podCIDR string
	// link is the end of the node's cable in the control plane's namespace.
	link string
}

var nodes = []node{newNode(1), newNode(2), newNode(3)}

func newNode(n int) node {
	return node{
		name:    fmt.Sprintf("node-%d", n),
		ip:      fmt.Sprintf("10.90.0.%d", 10+n),
		podCIDR: fmt.Sprintf("10.244.%d.0/24", n),
		link:    fmt.Sprintf("vo-link-%d", n),
	}
}

func findNode(name string) (node, error) {
	for _, n := range nodes {
		if n.name == name {
			return n, nil
		}
	}
	return node{}, fmt.Errorf("there is no node %q", name)
}

func (n node) namespace() string          { return namespacePrefix + n.name }
func (n node) dir(parts ...string) string { return statePath(append([]string{n.name}, parts...)...) }
func (n node) containerdSocket() string   { return n.dir("containerd.sock") }

// cgroup is the node's own cgroup: kubelets that shared one would delete each
// other's pods.
func (n node) cgroup() string { return n.namespace() }

// stateDir holds everything that a running cluster has on disk. Only root may
// look into it: keys are in it, and programs that run as root. Pods get their
// volumes by bind mounts, so that it is closed does not matter to them.
const stateDir = "/var/lib/vault-operator-cluster"

func statePath(parts ...string) string {
	return filepath.Join(append([]string{stateDir}, parts...)...)
}

func adminKubeconfig() string       { return statePath("admin.kubeconfig") }
func logPath(process string) string { return statePath("logs", process+".log") }

// cacheDir holds what takes long to build, by version. It outlives the cluster.
func cacheDir() string {
	if dir := os.Getenv("VAULT_OPERATOR_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = "/var/cache"
	}
	return filepath.Join(dir, "vault-operator")
}

// binDir holds links to the binaries of the versions in use.
func binDir() string { return filepath.Join(cacheDir(), "bin") }

func bin(name string) string { return filepath.Join(binDir(), name) }

// writeConfig writes a configuration file, unless it is there already:
// kube-proxy ends itself when its file is written, whatever is in it.
func writeConfig(path, content string) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == content {
		return nil
	}
	return os.WriteFile(path, []byte(content), 0o644)
}
