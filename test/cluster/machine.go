package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

func requireRoot() error {
	if os.Getuid() != 0 {
		return errors.New("network namespaces and containers need root")
	}
	return nil
}

// lock makes commands that change the cluster wait for each other.
func lock() (unlock func(), err error) {
	file, err := os.OpenFile("/run/vault-operator-cluster.lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return nil, err
	}
	return func() { file.Close() }, nil
}

// kubeletSysctls are the settings of the machine that a kubelet changes.
var kubeletSysctls = []string{"vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"}

func sysctlRecord() string { return statePath("sysctls.json") }

// recordSysctls remembers the settings as they were before the first kubelet.
func recordSysctls() error {
	if exists(sysctlRecord()) {
		return nil
	}
	values := map[string]string{}
	for _, name := range kubeletSysctls {
		value, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if err != nil {
			return err
		}
		values[name] = strings.TrimSpace(string(value))
	}
	content, err := json.Marshal(values)
	if err != nil {
		return err
	}
	return writeFile(sysctlRecord(), content)
}

// restoreSysctls undoes what the kubelets did, as far as it is known.
func restoreSysctls() {
	var values map[string]string
	content, err := os.ReadFile(sysctlRecord())
	if err != nil || json.Unmarshal(content, &values) != nil {
		return
	}
	for name, value := range values {
		_ = os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0)
	}
}
