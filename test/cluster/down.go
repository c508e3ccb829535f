package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// down removes all that up made, but for the cache. It works from what is there
// and not from what should be, so it also removes a cluster that is half dead.
func down(ctx context.Context) error {
	if err := requireRoot(); err != nil {
		return err
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	if !exists(stateDir) {
		fmt.Println("there is no cluster")
		return nil
	}
	// With the kubelets gone nothing starts a container again.
	stopAll(func(p process) bool { return strings.HasSuffix(p.Name, "-kubelet") })
	killContainers()
	// The API server goes before its etcd, so that it does not wait for it.
	stopAll(func(p process) bool { return p.Name != "etcd" })
	stopAll(func(process) bool { return true })
	if err := unmountAll(); err != nil {
		return err
	}
	removeNetwork(ctx)
	for _, n := range nodes {
		removeCgroup(n.cgroup())
	}
	removeTraces()
	restoreSysctls()
	if err := removeState(); err != nil {
		return err
	}
	fmt.Println("the cluster is removed; what was built stays in", cacheDir())
	return nil
}

func stopAll(which func(process) bool) {
	for _, p := range allRecorded() {
		if which(p) {
			p.stop(10 * time.Second)
		}
	}
}

// killContainers ends the processes in the nodes' cgroups, and the shims that
// hold them, which are told by the socket of their containerd.
func killContainers() {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		pids := containerPIDs()
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
}

func containerPIDs() []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil && ofContainer(dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func ofContainer(dir string) bool {
	cgroups, _ := os.ReadFile(dir + "/cgroup")
	cmdline, _ := os.ReadFile(dir + "/cmdline")
	args := strings.Split(string(cmdline), "\x00")
	if len(cmdline) == 0 { // a zombie or a thread of the kernel
		return false
	}
	for _, n := range nodes {
		if strings.Contains(string(cgroups), ":/"+n.cgroup()+"/") {
			return true
		}
		if strings.Contains(args[0], "containerd-shim") && slices.Contains(args, n.containerdSocket()) {
			return true
		}
	}
	return false
}

// unmountAll unmounts what is mounted below the state directory, the last first.
func unmountAll() error {
	points, err := mountPoints()
	if err != nil {
		return err
	}
	slices.Reverse(points)
	for _, point := range points {
		if err := syscall.Unmount(point, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
			return fmt.Errorf("unmounting %s: %w", point, err)
		}
	}
	return nil
}

// removeTraces removes what the kubelets and the CNI plugins leave outside the
// state directory, wherever it can be told that it is from this cluster.
func removeTraces() {
	results, _ := filepath.Glob("/var/lib/cni/results/" + podNetwork + "-*")
	logs, _ := filepath.Glob("/var/log/containers/*")
	for _, link := range logs {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, stateDir+"/") {
			results = append(results, link)
		}
	}
	for _, file := range results {
		os.Remove(file)
	}
}

// mountPoints are the mounts below the state directory, in the order of mounting.
func mountPoints() ([]string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var points []string
	for line := range strings.Lines(string(mounts)) {
		if point := strings.Fields(line)[4]; strings.HasPrefix(point, stateDir+"/") {
			points = append(points, point)
		}
	}
	return points, nil
}

// removeState removes the state directory, but not through a mount.
func removeState() error {
	points, err := mountPoints()
	if err != nil {
		return err
	}
	if len(points) > 0 {
		return fmt.Errorf("still mounted, so nothing below it is removed: %q", points)
	}
	return os.RemoveAll(stateDir)
}

// removeCgroup removes a cgroup and those below it, the deepest first.
func removeCgroup(name string) {
	for _, controller := range cgroupControllers() {
		var dirs []string
		_ = filepath.WalkDir(filepath.Join(controller, name), func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		}) // what cannot be read stays
		slices.Reverse(dirs)
		for _, dir := range dirs {
			os.Remove(dir)
		}
	}
}

// installSelf copies this program to where the cluster's processes run it from.
// The copy is not replaced when it is the same, so that they are not restarted.
func installSelf() error {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	if hashOfFile(statePath("cluster")) == hashOf(string(self)) {
		return nil
	}
	if err := os.WriteFile(statePath("cluster.new"), self, 0o755); err != nil {
		return err
	}
	return os.Rename(statePath("cluster.new"), statePath("cluster"))
}

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}

func hashOfFile(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return ""
	}
	return hex.EncodeToString(hash.Sum(nil)[:8])
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
