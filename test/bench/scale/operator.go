package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// enter gives the operator the files of its ServiceAccount where a pod has them,
// in a mount namespace of its own.
const enter = `mount -t tmpfs tmpfs /var/run
mkdir -p /var/run/secrets/kubernetes.io
cp -r "$0" /var/run/secrets/kubernetes.io/serviceaccount
exec "$@"`

// ticks is how many a second of CPU time has in /proc.
const ticks = 100

// operator is the operator's process.
type operator struct {
	cmd     *exec.Cmd
	done    chan struct{}
	metrics string
	token   string
}

// startOperator runs the operator with the arguments, environment and rights of
// its Deployment, and waits until it is ready.
func startOperator(ctx context.Context, p *controlPlane, o options) (*operator, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("root is needed, to give the operator the files of its ServiceAccount")
	}
	if len(p.deployment.Spec.Template.Spec.Containers) != 1 {
		return nil, errors.New("the Deployment of the operator has to have one container")
	}
	container := p.deployment.Spec.Template.Spec.Containers[0]
	dir, err := serviceAccountFiles(ctx, p)
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	metrics, health, err := freeAddresses()
	if err != nil {
		return nil, err
	}
	binary, err := filepath.Abs(o.binary)
	if err != nil {
		return nil, err
	}
	args := append([]string{"-e", "-c", enter, dir, binary}, container.Args...)
	args = append(args, "--metrics-bind-address="+metrics, "--health-probe-bind-address="+health)
	log, err := os.Create(o.log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	op := &operator{cmd: exec.Command("sh", args...), done: make(chan struct{}), metrics: metrics}
	op.cmd.Dir = o.tree
	op.cmd.Env = environment(p, container)
	op.cmd.Stdout, op.cmd.Stderr = log, log
	// It ends with this program, in whatever way that ends.
	op.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Unshareflags: syscall.CLONE_NEWNS}
	if err := op.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = op.cmd.Wait()
		close(op.done)
	}()
	if op.token, err = p.metricsToken(ctx); err != nil {
		return op, err
	}
	return op, op.awaitReady(ctx, health, o.log)
}

// serviceAccountFiles writes what a pod of the operator has of its ServiceAccount.
func serviceAccountFiles(ctx context.Context, p *controlPlane) (string, error) {
	token, err := p.token(ctx, p.deployment.Spec.Template.Spec.ServiceAccountName)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "vault-operator-scale-")
	if err != nil {
		return "", err
	}
	return dir, errors.Join(
		os.WriteFile(filepath.Join(dir, "token"), []byte(token), 0o600),
		os.WriteFile(filepath.Join(dir, "ca.crt"), p.config.CAData, 0o600),
		os.WriteFile(filepath.Join(dir, "namespace"), []byte(p.deployment.Namespace), 0o600),
	)
}

// environment is the container's, where the API server is, and the image, since there is no pod to read it from.
func environment(p *controlPlane, container corev1.Container) []string {
	_, address, _ := strings.Cut(p.config.Host, "://")
	host, port, _ := strings.Cut(address, ":")
	env := []string{"KUBERNETES_SERVICE_HOST=" + host, "KUBERNETES_SERVICE_PORT=" + port, "PATH=" + os.Getenv("PATH"),
		"OPERATOR_IMAGE=" + container.Image}
	for _, variable := range container.Env {
		value := variable.Value
		if from := variable.ValueFrom; from != nil && from.FieldRef != nil {
			switch from.FieldRef.FieldPath {
			case "metadata.namespace":
				value = p.deployment.Namespace
			case "metadata.name":
				value = p.deployment.Name + "-0"
			}
		}
		env = append(env, variable.Name+"="+value)
	}
	return env
}

func freeAddresses() (first, second string, err error) {
	var listeners [2]net.Listener
	for i := range listeners {
		if listeners[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return "", "", err
		}
		defer func() { _ = listeners[i].Close() }()
	}
	return listeners[0].Addr().String(), listeners[1].Addr().String(), nil
}

// awaitReady waits until the operator says that it is, as the kubelet would.
func (op *operator) awaitReady(ctx context.Context, health, log string) error {
	for ctx.Err() == nil && op.ended() == nil {
		if response, err := http.Get("http://" + health + "/readyz"); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("the operator did not become ready, see %s: %w", log, errors.Join(ctx.Err(), op.ended()))
}

// ended says with what the operator has ended, or nil.
func (op *operator) ended() error {
	select {
	case <-op.done:
		return errors.New(op.cmd.ProcessState.String())
	default:
		return nil
	}
}

func (op *operator) stop() {
	_ = op.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-op.done:
	case <-time.After(10 * time.Second):
		_ = op.cmd.Process.Kill()
		<-op.done
	}
}

// usage is what a process has used so far.
type usage struct {
	cpu     time.Duration
	rssMiB  float64
	peakMiB float64
}

func (op *operator) usage() (usage, error) {
	dir := fmt.Sprintf("/proc/%d/", op.cmd.Process.Pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return usage{}, err
	}
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return usage{}, err
	}
	return parseUsage(string(stat), string(status))
}

// parseUsage reads /proc/PID/stat and /proc/PID/status.
func parseUsage(stat, status string) (u usage, err error) {
	// The name of the program, in brackets, may have spaces.
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	if len(fields) < 13 {
		return u, errors.New("/proc/PID/stat is too short")
	}
	for _, field := range fields[11:13] { // utime and stime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return u, err
		}
		u.cpu += time.Duration(n) * time.Second / ticks
	}
	for line := range strings.Lines(status) {
		for key, value := range map[string]*float64{"VmRSS:": &u.rssMiB, "VmHWM:": &u.peakMiB} {
			if text, found := strings.CutPrefix(line, key); found {
				kib, err := strconv.ParseFloat(strings.Fields(text)[0], 64)
				if err != nil {
					return u, err
				}
				*value = kib / 1024
			}
		}
	}
	return u, nil
}

// heapMiB returns how much memory of the operator's heap is in use, by its metrics.
func (op *operator) heapMiB(ctx context.Context) (float64, error) {
	// The certificate is one that the operator has made for itself.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+op.metrics+"/metrics", http.NoBody)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+op.token)
	response, err := (&http.Client{Transport: transport, Timeout: 30 * time.Second}).Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	for scanner := bufio.NewScanner(response.Body); scanner.Scan(); {
		if text, found := strings.CutPrefix(scanner.Text(), "go_memstats_heap_inuse_bytes "); found {
			bytes, err := strconv.ParseFloat(text, 64)
			return bytes / (1 << 20), err
		}
	}
	return 0, fmt.Errorf("the metrics have no heap: %s", response.Status)
}
