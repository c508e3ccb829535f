// Command backup measures backups and restores beside what etcdctl and vault do, each in a process
// of its own, on the same machine and by turns, and how long clients wait meanwhile.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sys/unix"

	"github.com/vault-operator/vault-operator/internal/backup"
	"github.com/vault-operator/vault-operator/test/internal/backuptest"
)

const (
	// asJob makes this program do a task, as the Job does.
	asJob = "BACKUP_BENCH_FILES"
	// asUpload makes it put a file into a bucket, as a program of an administrator does.
	asUpload = "BACKUP_BENCH_UPLOAD"
	// pieces are how large the values are that the storages are filled with.
	piece = 256 << 10
	// clients send a request each, and then wait for pace.
	clients = 4
	pace    = 5 * time.Millisecond
	// atRest is for how long clients are measured without anything else.
	atRest = 10 * time.Second
)

// console ends the measurement at the first failure.
type console struct{ cleanups []func() }

func (*console) Helper()             {}
func (*console) Logf(string, ...any) {}

func (c *console) Cleanup(fn func()) { c.cleanups = append(c.cleanups, fn) }

func (c *console) close() {
	for _, fn := range slices.Backward(c.cleanups) {
		fn()
	}
}

func (c *console) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "backup: "+format+"\n", args...)
	c.close()
	os.Exit(1)
}

func main() {
	for as, do := range map[string]func(string) error{asJob: job, asUpload: upload} {
		if of := os.Getenv(as); of != "" {
			if err := do(of); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		}
	}
	mib := flag.Int("mib", 10, "MiB of data")
	repetitions := flag.Int("n", 3, "how often everything is measured")
	flag.Parse()
	t := &console{}
	defer t.close()
	dir, err := os.MkdirTemp("", "bench-backup-")
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program, err := exec.LookPath("versitygw")
	if err != nil {
		t.Fatalf("%v", err)
	}
	b := &bench{console: t, mib: *mib, repetitions: *repetitions, dir: dir,
		machine: backuptest.New(t, filepath.Dir(program), dir)}
	b.s3 = b.machine.StartS3()
	fmt.Printf("%d MiB, the median of %d\n%-52s %9s %9s %9s\n", *mib, *repetitions, "", "seconds", "ratio", "peak MiB")
	b.etcd()
	b.vault()
}

// job does a task with the memory limit of a Job, and prints how long sending took.
func job(encoded string) error {
	var files backup.Files
	var task backup.Task
	if err := errors.Join(json.Unmarshal([]byte(encoded), &files),
		json.Unmarshal([]byte(os.Getenv(backup.TaskVariable)), &task)); err != nil {
		return err
	}
	log := funcr.NewJSON(func(line string) { fmt.Println(line) }, funcr.Options{})
	backup.LimitMemory()
	_, err := backup.Run(context.Background(), &task, &files, log)
	return err
}

// upload puts a file into a bucket by minio-go, as it does by default.
func upload(file string) error {
	client, err := minio.New(os.Getenv("S3_HOST"), &minio.Options{
		Creds: credentials.NewEnvAWS(), Secure: true, Region: os.Getenv("AWS_REGION"), BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		return err
	}
	_, err = client.FPutObject(context.Background(), os.Getenv("S3_BUCKET"), "by-hand", file, minio.PutObjectOptions{})
	return err
}

type bench struct {
	*console
	machine          *backuptest.Machine
	s3               *backuptest.S3
	dir              string
	mib, repetitions int
}

// cost is what a process took.
type cost struct {
	took time.Duration
	// sent is when a backup was written, and not read back yet.
	sent time.Duration
	// peak of its memory in MiB.
	peak int64
}

// process runs a program to its end.
func (b *bench) process(cmd *exec.Cmd, env ...string) cost {
	cmd.Env = append(os.Environ(), env...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	start := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatalf("%s: %v\n%s%s", cmd.Path, err, out.String(), problems.String())
	}
	c := cost{took: time.Since(start)}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		c.peak = usage.Maxrss >> 10
	}
	for line := range strings.Lines(out.String()) {
		var logged struct {
			Msg     string
			Seconds float64
		}
		if json.Unmarshal([]byte(line), &logged) == nil && logged.Msg == "Sent" {
			c.sent = time.Duration(logged.Seconds * float64(time.Second))
		}
	}
	return c
}

// own is this program.
func (b *bench) own() *exec.Cmd {
	path, err := os.Executable()
	if err != nil {
		b.Fatalf("%v", err)
	}
	return exec.Command(path)
}

// run does a task.
func (b *bench) run(task *backup.Task, files *backup.Files) cost {
	encodedTask, errTask := json.Marshal(task)
	encodedFiles, errFiles := json.Marshal(files)
	if err := errors.Join(errTask, errFiles); err != nil {
		b.Fatalf("%v", err)
	}
	return b.process(b.own(), backup.TaskVariable+"="+string(encodedTask), asJob+"="+string(encodedFiles))
}

// row prints the median, and how much faster the program is that it is compared with.
func row(what string, costs []cost, than time.Duration) {
	took := make([]time.Duration, 0, len(costs))
	var peak int64
	for _, c := range costs {
		took, peak = append(took, c.took), max(peak, c.peak)
	}
	slices.Sort(took)
	median := took[len(took)/2]
	fmt.Printf("%-52s %9.3f %9.2f %9d\n", what, median.Seconds(), than.Seconds()/median.Seconds(), peak)
}

func medianOf(costs []cost) time.Duration {
	took := make([]time.Duration, 0, len(costs))
	for _, c := range costs {
		took = append(took, c.took)
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// byHand is what an administrator does without the operator: the other program, and then the upload of its file.
func (b *bench) byHand(saved cost, file string, files *backup.Files) cost {
	s3 := b.s3.Location().S3
	put := b.process(b.own(), asUpload+"="+file, "S3_HOST="+b.s3.URL.Host, "S3_BUCKET="+s3.Bucket,
		"AWS_REGION="+s3.Region, "AWS_ACCESS_KEY_ID="+backuptest.AccessKeyID,
		"AWS_SECRET_ACCESS_KEY="+backuptest.SecretAccessKey, "SSL_CERT_FILE="+filepath.Join(files.S3CA, "ca.crt"))
	return cost{took: saved.took + put.took, peak: max(saved.peak, put.peak)}
}

// compare measures a storage: the other program, which saves to a file, and backups and restores of ours.
func (b *bench) compare(
	name string, other func() cost, file string, source *backup.Storage, files *backup.Files,
	fresh func() (*backup.Storage, *backup.Files),
) {
	results := map[string][]cost{}
	locations := map[string]backup.Location{
		"a bucket": b.s3.Location(), "a directory": {Directory: b.dir, Prefix: name},
	}
	for n := range b.repetitions {
		unix.Sync() // what ran before leaves nothing to write to the disk
		saved := other()
		results["other"] = append(results["other"], saved)
		unix.Sync()
		results["by hand"] = append(results["by hand"], b.byHand(saved, filepath.Join(b.dir, file), files))
		for where, location := range locations {
			task := &backup.Task{Action: backup.Backup, Name: fmt.Sprintf("%s-%d", name, n), Source: source, Location: location,
				Vault: backup.Description{UID: name}}
			unix.Sync()
			made := b.run(task, files)
			results[where] = append(results[where], made)
			results[where+" sent"] = append(results[where+" sent"], cost{took: made.sent, peak: made.peak})
			if where == "a bucket" {
				restore := *task
				restore.Action = backup.Restore
				var into *backup.Files
				restore.Source, into = fresh()
				unix.Sync()
				results["restore"] = append(results["restore"], b.run(&restore, into))
			}
			b.remove(task, files)
		}
	}
	than := medianOf(results["other"])
	row(name+": snapshot save", results["other"], than)
	row(name+": snapshot save, and the file to a bucket", results["by hand"], than)
	for _, where := range []string{"a bucket", "a directory"} {
		row(name+": backup to "+where+", sent", results[where+" sent"], than)
		row(name+": backup to "+where+", sent and read back", results[where], than)
	}
	row(name+": restore from a bucket", results["restore"], than)
}

// wait measures requests at rest, and while something is done over and over.
func (b *bench) wait(name string, request func(context.Context) error, busy map[string]func()) {
	rest := b.p99(request, func() { time.Sleep(atRest) })
	fmt.Printf("%-52s %9.4f\n", name+": p99 of requests at rest", rest.Seconds())
	for _, what := range []string{"snapshot save", "backup"} {
		during := b.p99(request, func() {
			for start := time.Now(); time.Since(start) < atRest; {
				busy[what]()
			}
		})
		fmt.Printf("%-52s %9.4f %9.2f\n", name+": p99 of requests during "+what,
			during.Seconds(), during.Seconds()/rest.Seconds())
	}
}

// p99 sends requests while something runs.
func (b *bench) p99(request func(context.Context) error, while func()) time.Duration {
	ctx, cancel := context.WithCancel(context.Background())
	var sending sync.WaitGroup
	var mu sync.Mutex
	var took []time.Duration
	for range clients {
		sending.Go(func() {
			for ctx.Err() == nil {
				start := time.Now()
				err := request(context.Background())
				if err != nil {
					b.Fatalf("a request: %v", err)
				}
				mu.Lock()
				took = append(took, time.Since(start))
				mu.Unlock()
				time.Sleep(pace)
			}
		})
	}
	while()
	cancel()
	sending.Wait()
	slices.Sort(took)
	return took[len(took)*99/100]
}

// noise cannot be compressed, as what Vault stores.
func noise() []byte {
	content := make([]byte, piece)
	_, _ = rand.Read(content) // it does not fail
	return content
}

func (b *bench) etcd() {
	etcd, files := b.machine.StartEtcd(), b.machine.Files()
	// Without it a snapshot is none of a Vault.
	if _, err := etcd.Put(context.Background(), "/vault/core/keyring", "keyring"); err != nil {
		b.Fatalf("%v", err)
	}
	for i := range b.mib << 20 / piece {
		if _, err := etcd.Put(context.Background(), fmt.Sprintf("/vault/logical/%d", i), string(noise())); err != nil {
			b.Fatalf("%v", err)
		}
	}
	const file = "etcdctl.db"
	other := func() cost {
		path := filepath.Join(b.dir, file)
		return b.process(exec.Command("etcdctl", "--endpoints="+etcd.Endpoint, "--cacert="+files.Etcd+"/ca.crt",
			"--cert="+files.Etcd+"/tls.crt", "--key="+files.Etcd+"/tls.key", "snapshot", "save", path))
	}
	b.compare("etcd", other, file, etcd.Storage(), files, func() (*backup.Storage, *backup.Files) {
		return b.machine.StartEtcd().Storage(), files
	})
	request := func(ctx context.Context) error {
		_, err := etcd.Put(ctx, "/vault/logical/client", "value")
		return err
	}
	b.wait("etcd", request, b.busy("etcd", other, etcd.Storage(), files))
}

// busy is what is done while clients are measured.
func (b *bench) busy(name string, other func() cost, source *backup.Storage, files *backup.Files) map[string]func() {
	// Each takes the place of the one before.
	task := &backup.Task{Action: backup.Backup, Name: name + "-busy", Source: source, Location: b.s3.Location(),
		Vault: backup.Description{UID: name}}
	return map[string]func(){"snapshot save": func() { other() }, "backup": func() { b.run(task, files) }}
}

// remove deletes a backup, so that there is room for the next one.
func (b *bench) remove(made *backup.Task, files *backup.Files) {
	task := *made
	task.Action = backup.Delete
	b.run(&task, files)
}

func (b *bench) vault() {
	vault := b.machine.StartVault(1, 1)
	ctx := context.Background()
	if err := vault.Write(ctx, vault.RootToken, "sys/mounts/kv", map[string]string{"type": "kv"}); err != nil {
		b.Fatalf("mounting kv: %v", err)
	}
	value := func(content []byte) map[string]string {
		return map[string]string{"value": base64.StdEncoding.EncodeToString(content)}
	}
	for i := range b.mib << 20 / piece {
		if err := vault.Write(ctx, vault.RootToken, fmt.Sprintf("kv/%d", i), value(noise()[:piece*3/4])); err != nil {
			b.Fatalf("filling Vault: %v", err)
		}
	}
	files := b.filesOf(vault)
	const file = "raft.snap"
	other := func() cost {
		return b.process(exec.Command("vault", "operator", "raft", "snapshot", "save", filepath.Join(b.dir, file)),
			"VAULT_ADDR="+vault.Address, "VAULT_CACERT="+files.Vault+"/ca.crt", "VAULT_TOKEN="+vault.RootToken)
	}
	b.compare("raft", other, file, vault.Storage(), files, func() (*backup.Storage, *backup.Files) {
		into := b.machine.StartNodes(1)[0]
		return into.Storage(), b.machine.Files()
	})
	request := func(ctx context.Context) error {
		return vault.Write(ctx, vault.RootToken, "kv/client", value([]byte("value")))
	}
	b.wait("raft", request, b.busy("raft", other, vault.Storage(), files))
}

func (b *bench) filesOf(vault *backuptest.Vault) *backup.Files {
	files := b.machine.Files()
	if err := os.WriteFile(filepath.Join(files.Login, "token"), []byte(vault.RootToken), 0o600); err != nil {
		b.Fatalf("%v", err)
	}
	return files
}
