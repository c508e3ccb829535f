package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// startNodes starts the nodes and waits until Kubernetes calls them ready.
func startNodes(ctx context.Context) error {
	for _, n := range nodes {
		if err := n.start(ctx); err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
	}
	for _, n := range nodes {
		err := await(ctx, n.name+" ready", n.name+"-kubelet", 2*time.Minute, func() error {
			state, err := kubectl(ctx, "get", "node", n.name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
			if err == nil && state != "True" {
				err = fmt.Errorf("its condition Ready is %q", state)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (n node) start(ctx context.Context) error {
	for _, dir := range []string{"cni", "kubelet", "pod-logs"} {
		if err := os.MkdirAll(n.dir(dir), 0o755); err != nil {
			return err
		}
	}
	for file, content := range map[string]string{
		"containerd.toml":  n.containerdConfig(),
		"cni/10-pods.conf": n.cniConfig(),
		"kubelet.yaml":     n.kubeletConfig(),
		"kube-proxy.yaml":  n.kubeProxyConfig(),
		"resolv.conf":      "",
	} {
		if err := writeConfig(n.dir(file), content); err != nil {
			return err
		}
	}
	if err := ensureCgroup(n.cgroup()); err != nil {
		return err
	}
	if err := start(n.name+"-containerd", n.namespace(), "containerd", "--config", n.dir("containerd.toml")); err != nil {
		return err
	}
	err := await(ctx, n.name+" containerd ready", n.name+"-containerd", time.Minute, func() error {
		_, err := n.ctr(ctx, "version")
		return err
	})
	if err != nil {
		return err
	}
	// Pods cannot start without the sandbox image, and a kubelet that fails to
	// start one waits before it tries again.
	if err := ensureImage(ctx, pauseImage(), n); err != nil {
		return err
	}
	if err := start(n.name+"-kube-proxy", n.namespace(), bin("kube-proxy"),
		"--config="+n.dir("kube-proxy.yaml")); err != nil {
		return err
	}
	return start(n.name+"-kubelet", n.namespace(), bin("kubelet"),
		"--config="+n.dir("kubelet.yaml"), "--kubeconfig="+kubeconfigPath("system:node:"+n.name),
		"--hostname-override="+n.name, "--node-ip="+n.ip, "--root-dir="+n.dir("kubelet"),
		"--cert-dir="+n.dir("kubelet", "pki"))
}

// ctr runs containerd's client in the namespace that the kubelet uses.
func (n node) ctr(ctx context.Context, args ...string) (string, error) {
	return output(ctx, append([]string{"ctr", "--address", n.containerdSocket(), "--namespace", "k8s.io"}, args...)...)
}

func (n node) containerdConfig() string {
	return fmt.Sprintf(`version = 2
root = %[1]q
state = %[2]q
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
]
[grpc]
  address = %[3]q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %[4]q
  # Without CAP_SYS_RESOURCE a score cannot be lowered, and runc would fail.
  restrict_oom_score_adj = true
  # So that "down" finds them.
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = %[6]q
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = %[5]q
`, n.dir("containerd"), n.dir("containerd-state"), n.containerdSocket(), pauseName, n.dir("cni"), n.dir("runc"))
}

// cniConfig joins pods point to point, so that all they send is routed by the
// node and seen by kube-proxy; between pods on one bridge it would not be.
func (n node) cniConfig() string {
	return fmt.Sprintf(`{"cniVersion": "0.4.0", "name": "%[3]s", "type": "ptp", "ipMasq": false,
 "ipam": {"type": "host-local", "dataDir": %[1]q, "ranges": [[{"subnet": %[2]q}]], "routes": [{"dst": "0.0.0.0/0"}]}}
`, n.dir("ipam"), n.podCIDR, podNetwork)
}

func (n node) kubeletConfig() string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: %[1]q}
authorization: {mode: Webhook}
tlsCertFile: %[2]q
tlsPrivateKeyFile: %[3]q
containerRuntimeEndpoint: unix://%[4]s
cgroupDriver: cgroupfs
cgroupRoot: /%[5]s
failCgroupV1: false
clusterDNS: [%[6]s]
clusterDomain: %[7]s
resolvConf: %[8]q
podLogsDir: %[9]q
volumePluginDir: %[10]q
failSwapOn: false
# A Secret that has changed reaches the files of pods within about that time. The default is a minute.
syncFrequency: 15s
# The disk is the machine's, and images could not be pulled again.
evictionHard: {memory.available: 100Mi, nodefs.available: 1%%, imagefs.available: 1%%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
`, pki("ca.crt"), pki(n.name+".crt"), pki(n.name+".key"), n.containerdSocket(), n.cgroup(),
		dnsServiceIP, clusterDomain, n.dir("resolv.conf"), n.dir("pod-logs"), n.dir("volume-plugins"))
}

func (n node) kubeProxyConfig() string {
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: %q}
hostnameOverride: %s
mode: nftables
clusterCIDR: %s
# The machine's own settings are left alone.
conntrack: {maxPerCore: 0, min: 0}
`, kubeconfigPath("system:kube-proxy"), n.name, podCIDR)
}

// cgroupControllers returns the directories of the cgroup hierarchies.
func cgroupControllers() []string {
	if exists("/sys/fs/cgroup/cgroup.controllers") { // version 2 alone
		return []string{"/sys/fs/cgroup"}
	}
	all, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	var dirs []string
	for _, file := range all {
		if dir := filepath.Dir(file); !isLink(dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&os.ModeSymlink != 0
}

// ensureCgroup makes the cgroup in every controller. A new cpuset has no CPUs
// and admits no process before it is given some.
func ensureCgroup(name string) error {
	for _, controller := range cgroupControllers() {
		dir := filepath.Join(controller, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(controller, file))
			if err != nil {
				continue // not the cpuset controller
			}
			if err := os.WriteFile(filepath.Join(dir, file), value, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// printPID prints the id, on this machine, of a container's process: the first one,
// or the one that it runs if it is a shell.
func printPID(ctx context.Context, pod, container string) error {
	namespace, name, ok := strings.Cut(pod, "/")
	if !ok {
		return fmt.Errorf("%q is not NAMESPACE/POD", pod)
	}
	found, err := kubectl(ctx, "-n", namespace, "get", "pod", name, "-o",
		fmt.Sprintf(`jsonpath={.spec.nodeName} {.status.containerStatuses[?(@.name==%q)].containerID}`, container))
	if err != nil {
		return err
	}
	nodeName, id, ok := strings.Cut(found, " containerd://")
	if !ok {
		return fmt.Errorf("container %q of pod %s has not been started", container, pod)
	}
	n, err := findNode(nodeName)
	if err != nil {
		return err
	}
	tasks, err := n.ctr(ctx, "tasks", "list")
	if err != nil {
		return err
	}
	for line := range strings.Lines(tasks) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == id && fields[2] != "STOPPED" {
			pid, err := behindShell(fields[1])
			fmt.Println(pid)
			return err
		}
	}
	return fmt.Errorf("container %q of pod %s does not run", container, pod)
}

// behindShell is the process that a shell runs, or the same process if it is none. A
// loop of the shell in the background is a shell itself.
func behindShell(pid string) (string, error) {
	shell, err := isShell(pid)
	if err != nil || !shell {
		return pid, err
	}
	children, err := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	if err != nil {
		return "", err
	}
	var found []string
	for _, child := range strings.Fields(string(children)) {
		shell, err := isShell(child)
		if err != nil {
			return "", err
		}
		if !shell {
			found = append(found, child)
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("the shell %s runs %q beside shells, want one process", pid, found)
	}
	return found[0], nil
}

func isShell(pid string) (bool, error) {
	name, err := os.ReadFile("/proc/" + pid + "/comm")
	return string(name) == "sh\n", err
}
