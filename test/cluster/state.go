package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a process of the cluster. Its record survives the command that
// started it.
type process struct {
	Name string
	// Namespace is the network namespace it runs in; empty for the machine's own.
	Namespace string
	Args      []string
	// Inputs are what the process was started from: its binary and the files that
	// its arguments name, by content.
	Inputs string
	PID    int
	// Started is the process's start time as the kernel counts it, so that
	// another process that got the same id later is not taken for it.
	Started string
}

func (p process) recordPath() string { return statePath("processes", p.Name+".json") }

// start makes sure that the process runs with these arguments.
func start(name, namespace string, args ...string) error {
	inputs := inputsOf(args)
	old, err := recorded(name)
	if err == nil && old.alive() && slices.Equal(old.Args, args) && old.Inputs == inputs {
		return nil
	}
	if err == nil {
		old.stop(10 * time.Second)
	}
	p := process{Name: name, Namespace: namespace, Args: args, Inputs: inputs}
	log, err := os.OpenFile(logPath(name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	if namespace != "" {
		// Not "ip netns exec": it would hide /sys/fs/cgroup.
		args = append([]string{"nsenter", "--net=" + netns(namespace)}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	// Nothing of the caller's environment, such as a proxy, is passed on.
	cmd.Env = []string{"PATH=" + binDir() + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + stateDir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	p.PID = cmd.Process.Pid
	p.Started, _ = startTime(p.PID)
	go func() { _ = cmd.Wait() }() // no zombie while this command lives
	record, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return writeFile(p.recordPath(), record)
}

// inputsOf identifies the content of the binary and of the configuration files
// that the arguments name.
func inputsOf(args []string) string {
	var inputs []string
	for _, arg := range args {
		_, path, found := strings.Cut(arg, "=")
		if !found {
			path = arg
		}
		if resolved, err := filepath.EvalSymlinks(path); err == nil && strings.HasPrefix(path, "/") {
			info, err := os.Stat(resolved)
			switch {
			case err != nil || info.IsDir():
			case info.Mode()&0o111 != 0 && !strings.HasPrefix(resolved, stateDir):
				inputs = append(inputs, resolved) // built, in a folder named by its version
			default:
				inputs = append(inputs, hashOfFile(resolved))
			}
		}
	}
	return strings.Join(inputs, " ")
}

// writeFile replaces a file as a whole: a command that is killed leaves the old
// one or the new one.
func writeFile(path string, content []byte) error {
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func recorded(name string) (process, error) {
	var p process
	content, err := os.ReadFile(process{Name: name}.recordPath())
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal(content, &p)
}

// allRecorded returns the processes that were started, by name.
func allRecorded() []process {
	var all []process
	files, _ := filepath.Glob(statePath("processes", "*.json"))
	for _, file := range files {
		if p, err := recorded(strings.TrimSuffix(filepath.Base(file), ".json")); err == nil {
			all = append(all, p)
		}
	}
	return all
}

func (p process) alive() bool {
	started, err := startTime(p.PID)
	return err == nil && started == p.Started
}

// stop ends the process, by force when it takes longer than grace.
func (p process) stop(grace time.Duration) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if !p.alive() {
			break
		}
		_ = syscall.Kill(p.PID, signal) // it may have ended
		for deadline := time.Now().Add(grace); p.alive() && time.Now().Before(deadline); {
			time.Sleep(20 * time.Millisecond)
		}
	}
	os.Remove(p.recordPath())
}

// startTime reads the 22nd field of /proc/PID/stat; see proc(5). A zombie has
// ended.
func startTime(pid int) (string, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", err
	}
	// The second field, the name, is in parentheses and may contain anything.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return "", errors.New("ended")
	}
	return fields[19], nil
}

// await calls ready until it returns nil, and says for how long it has waited.
// When time is up, or the process that was waited for has died, it shows the end
// of that process's log.
func await(ctx context.Context, what, process string, limit time.Duration, ready func() error) error {
	begin := time.Now()
	for shown := begin; ; {
		err := ready()
		if err == nil {
			fmt.Printf("  %s after %s\n", what, time.Since(begin).Round(100*time.Millisecond))
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if p, recordErr := recorded(process); recordErr == nil && !p.alive() {
			return fmt.Errorf("%s has ended\n%s", process, logTail(process))
		}
		if time.Since(begin) > limit {
			return fmt.Errorf("not %s after %s: %w\n%s", what, limit, err, logTail(process))
		}
		if time.Since(shown) > 15*time.Second {
			fmt.Printf("  not %s for %s: %v\n", what, time.Since(begin).Round(time.Second), err)
			shown = time.Now()
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func logTail(process string) string {
	content, err := os.ReadFile(logPath(process))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return fmt.Sprintf("The end of %s:\n%s", logPath(process), strings.Join(lines[max(0, len(lines)-20):], "\n"))
}

func printStatus() error {
	all := allRecorded()
	if len(all) == 0 {
		fmt.Println("there is no cluster")
		return nil
	}
	for _, p := range all {
		state := "ended"
		if p.alive() {
			state = "runs"
		}
		fmt.Printf("%-28s %-6s pid %-8d %s\n", p.Name, state, p.PID, logPath(p.Name))
	}
	return nil
}

// output runs a command and returns what it printed; the error has it, too.
func output(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, text)
	}
	return text, nil
}
