package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// part is a Go module under parts/ that pins programs of the cluster.
type part struct {
	module string
	// packages by the name of the binary.
	packages map[string]string
	ldflags  string
	// tags to build with.
	tags string
	// replaced is what is changed before, or nil.
	replaced *replacedFile
}

const kubernetesVersion = "v1.37.2"

const etcdVersion = "v3.6.16"

// clusterParts are what the cluster consists of. Their modules have the versions of what
// they share in common, so that it is compiled once.
func clusterParts() []part {
	const version = "k8s.io/component-base/version"
	return []part{
		{module: "etcd", packages: map[string]string{
			"etcd":    "go.etcd.io/etcd/server/v3",
			"etcdctl": "go.etcd.io/etcd/etcdctl/v3",
		}},
		{module: "kubernetes", packages: kubernetesPackages(),
			ldflags: fmt.Sprintf("-X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=1 -X %[1]s.gitMinor=37", version,
				kubernetesVersion)},
		{module: "coredns", packages: map[string]string{"coredns": "github.com/coredns/coredns"}},
		vaultPart(vaultVersion),
	}
}

func kubernetesPackages() map[string]string {
	packages := map[string]string{}
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy",
		"kubectl"} {
		packages[name] = "k8s.io/kubernetes/cmd/" + name
	}
	return packages
}

// ensureParts builds the parts that are not in the cache and links all of them
// into binDir. One is built after the other, so that what two share is compiled once.
func ensureParts(ctx context.Context, parts []part) error {
	if err := os.MkdirAll(binDir(), 0o755); err != nil {
		return err
	}
	for _, p := range parts {
		if err := p.ensure(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p part) ensure(ctx context.Context) error {
	key, err := p.key()
	if err != nil {
		return err
	}
	dir := filepath.Join(cacheDir(), "parts", p.module+"-"+key)
	missing := func(name string) bool { return !exists(filepath.Join(dir, name)) }
	if slices.ContainsFunc(sortedKeys(p.packages), missing) {
		if err := p.build(ctx, dir); err != nil {
			return err
		}
	}
	for name := range p.packages {
		if err := link(filepath.Join(dir, name), bin(name)); err != nil {
			return err
		}
	}
	return nil
}

// dir is where the module is, from the folder that "go run -C" works in.
func (p part) dir() string { return filepath.Join("parts", p.module) }

// key identifies what the binaries of a part are built from.
func (p part) key() (string, error) {
	hash := sha256.New()
	hash.Write([]byte(p.ldflags + p.tags))
	if p.replaced != nil {
		hash.Write([]byte(p.replaced.content))
	}
	own, err := filepath.Glob(filepath.Join(p.dir(), "*.go"))
	if err != nil {
		return "", err
	}
	for _, file := range append([]string{filepath.Join(p.dir(), "go.mod"), filepath.Join(p.dir(), "go.sum")}, own...) {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		hash.Write(content)
	}
	return hex.EncodeToString(hash.Sum(nil))[:12], nil
}

// goBuild builds as the Makefile does, so that what is shared is compiled once.
var goBuild = []string{"build", "-trimpath", "-gcflags=all=-dwarf=false"}

// build builds the binaries of the part at once, so that some can be linked while others
// are compiled, and puts them into dir.
func (p part) build(ctx context.Context, dir string) error {
	// A build that is cut off leaves no binary under its final name.
	unfinished := dir + ".unfinished"
	if err := errors.Join(os.RemoveAll(unfinished), os.MkdirAll(unfinished, 0o755)); err != nil {
		return err
	}
	args := append(slices.Clone(goBuild), "-tags", p.tags,
		"-ldflags", strings.TrimSpace("-s -w "+p.ldflags), "-o", unfinished+"/")
	if p.replaced != nil {
		source, err := os.MkdirTemp(cacheDir(), p.module+"-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(source) }()
		modfile, err := p.replaced.modfile(ctx, p.dir(), source)
		if err != nil {
			return fmt.Errorf("replacing %s of %s: %w", p.replaced.path, p.replaced.module, err)
		}
		args = append(args, "-modfile="+modfile)
	}
	names := sortedKeys(p.packages)
	for _, name := range names {
		args = append(args, p.packages[name])
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = p.dir()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if err := runShowing(cmd, fmt.Sprintf("building %s (%s)", p.module, strings.Join(names, ", "))); err != nil {
		return err
	}
	for _, name := range names {
		program := filepath.Join(unfinished, programOf(p.packages[name]))
		if err := os.Rename(program, filepath.Join(unfinished, name)); err != nil {
			return err
		}
	}
	return errors.Join(os.RemoveAll(dir), os.Rename(unfinished, dir))
}

var majorVersion = regexp.MustCompile(`/v[0-9]+$`)

// programOf is what "go build" calls the program of a package.
func programOf(pkg string) string { return path.Base(majorVersion.ReplaceAllString(pkg, "")) }

// link makes path a symbolic link to target, whatever it was before.
func link(target, path string) error {
	if current, err := os.Readlink(path); err == nil && current == target {
		return nil
	}
	temporary := path + ".new"
	os.Remove(temporary)
	if err := os.Symlink(target, temporary); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// runShowing runs a command that takes long, and says every now and then for
// how long it has been running. What the command prints is shown if it fails.
func runShowing(cmd *exec.Cmd, what string) error {
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	start := time.Now()
	fmt.Printf("%s ...\n", what)
	done := make(chan struct{})
	defer close(done)
	go func() {
		ticker := time.NewTicker(15 * time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				fmt.Printf("  %s: %s so far\n", what, time.Since(start).Round(time.Second))
			}
		}
	}()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", what, err, output.Bytes())
	}
	fmt.Printf("  %s: done in %s\n", what, time.Since(start).Round(time.Second))
	return nil
}

// debianPackages are what the nodes and the tests need of the machine, by a file that each brings.
var debianPackages = map[string]string{
	"/usr/bin/containerd": "containerd",
	"/usr/sbin/runc":      "runc",
	"/usr/lib/cni/ptp":    "containernetworking-plugins",
	"/usr/sbin/iptables":  "iptables",
	"/usr/sbin/conntrack": "conntrack",
	"/usr/sbin/ipset":     "ipset",
	"/usr/sbin/nft":       "nftables",
	"/bin/ip":             "iproute2",
	"/bin/busybox":        "busybox-static",
	"/usr/bin/buildah":    "buildah",
	"/usr/bin/gpg":        "gnupg",
}

func ensureDebianPackages(ctx context.Context) error {
	var missing []string
	for file, name := range debianPackages {
		if _, err := os.Stat(file); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := runShowing(exec.CommandContext(ctx, "apt-get", "update", "-q"),
		"updating the list of Debian packages"); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"install", "-q", "-y", "--no-install-recommends"},
		missing...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	return runShowing(cmd, "installing "+strings.Join(missing, ", "))
}
