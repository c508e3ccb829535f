package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/go-logr/logr"
)

// stallAfter is how long nothing may move before the Job gives up.
const stallAfter = 5 * time.Minute

var errStalled = fmt.Errorf("nothing was sent or received for %s", stallAfter)

// Files are the directories that a Job reads from.
type Files struct {
	Etcd, Vault, Login, S3, S3CA, Scratch string
	// dial connects to an S3 server; nil for the network of the machine.
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// DefaultFiles are where the Job mounts them.
var DefaultFiles = Files{
	Etcd: EtcdDirectory, Vault: VaultDirectory, Login: LoginDirectory, S3: S3Directory, S3CA: S3CADirectory,
	Scratch: ScratchDirectory,
}

// snapshot is a stream of a source.
type snapshot struct {
	io.Reader
	format string
	close  func() error
}

// source is what is backed up.
type source interface {
	// members are those that may be asked, the best first.
	members(ctx context.Context) ([]member, error)
	// keys are the number of key shares and how many of them unseal Vault, or 0 if that is not told.
	keys(ctx context.Context) (shares, threshold int)
	// open starts a snapshot of a member.
	open(ctx context.Context, endpoint string) (*snapshot, error)
}

// job is a task that is being done.
type job struct {
	task   *Task
	files  *Files
	log    logr.Logger
	store  store
	cancel context.CancelCauseFunc
	alive  *time.Timer
	result Result
}

// Run does a task. It returns an error together with a Result that explains it.
func Run(ctx context.Context, task *Task, files *Files, log logr.Logger) (Result, error) {
	return runWith(ctx, task, files, log, func(ctx context.Context, j *job) error { return j.run(ctx) })
}

// runWith has a job done, and ends it when nothing moves.
func runWith(
	ctx context.Context, task *Task, files *Files, log logr.Logger, do func(context.Context, *job) error,
) (Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	j := &job{task: task, files: files, log: log, cancel: cancel}
	j.alive = time.AfterFunc(stallAfter, func() { cancel(errStalled) })
	defer j.alive.Stop()
	err := do(ctx, j)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
			err = fail(Unreachable, cause, "The Job gave up")
		}
		j.result.explain(err)
	}
	return j.result, err
}

func (j *job) run(ctx context.Context) error {
	switch j.task.Action {
	case Reach:
		return j.reach(ctx, reachAttempts())
	case Isolation:
		return j.reach(ctx, isolationAttempts())
	}
	if !safeName(j.task.Name) {
		return fail(Failed, nil, "%q is not a name of a backup", printable(j.task.Name))
	}
	var err error
	if j.store, err = openStore(&j.task.Location, j.files); err != nil {
		return err
	}
	switch j.task.Action {
	case Backup:
		return j.backup(ctx)
	case Restore:
		return j.restore(ctx)
	case Delete:
		return j.delete(ctx)
	}
	return fail(Failed, nil, "There is no action %q", printable(string(j.task.Action)))
}

func (j *job) snapshotName() string { return j.task.Name + SnapshotSuffix }
func (j *job) recordName() string   { return j.task.Name + recordSuffix }
func (j *job) owner() string        { return j.task.Vault.UID }

// source opens the storage of the task.
func (j *job) source() (source, error) {
	storage := j.task.Source
	switch {
	case storage != nil && storage.Etcd != nil && storage.Raft == nil:
		return newEtcdSource(storage.Etcd, j.files)
	case storage != nil && storage.Raft != nil && storage.Etcd == nil:
		return newRaftSource(storage.Raft, j.files)
	}
	return nil, fail(Failed, nil, "The task has to name one storage")
}

func (j *job) backup(ctx context.Context) error {
	if j.owner() == "" {
		return fail(Failed, nil, "The task does not tell the UID of the Vault")
	}
	record, err := readRecord(ctx, j.store, j.task.Name)
	if err == nil {
		if record.Vault.UID != j.owner() {
			return fail(Refused, nil, "There is a backup %s of another Vault", j.task.Name)
		}
		// A pod of before may have made it, whose result did not arrive. But only the store says so, and one
		// that lies could tell of an older backup.
		j.log.Info("The backup is made anew")
		err = j.remove(ctx, j.recordName(), j.snapshotName())
	}
	if ignoreNotFound(err) != nil {
		return err
	}
	if err := j.store.clean(ctx, j.snapshotName(), j.owner()); err != nil {
		j.log.Info("What a Job of before may have left could not be removed", "reason", short(err))
	}
	source, err := j.source()
	if err != nil {
		return err
	}
	members, err := source.members(ctx)
	if err != nil {
		return err
	}
	if shares, threshold := source.keys(ctx); threshold > 0 {
		j.task.Vault.Shares, j.task.Vault.Threshold = shares, threshold
	}
	for _, m := range members {
		var again bool
		if again, err = j.backupFrom(ctx, source, m.endpoint); err == nil || !again || ctx.Err() != nil {
			break
		}
		j.log.Info("The snapshot failed", "endpoint", m.endpoint, "reason", short(err))
	}
	return err
}

// backupFrom backs up from one member, and says whether another one may do better.
func (j *job) backupFrom(ctx context.Context, from source, endpoint string) (again bool, err error) {
	start := time.Now()
	opened, err := from.open(ctx, endpoint)
	if err != nil {
		return true, err
	}
	sent, err := j.newReading(opened.Reader, opened.format)
	if err != nil {
		return false, errors.Join(err, opened.close())
	}
	stored, err := j.store.put(ctx, j.snapshotName(), j.owner(), sent)
	sent.check.close()
	_ = opened.close() // what it had to say was read
	if err != nil {
		return sent.failed != nil || sent.wrong != nil, err
	}
	j.log.Info("Sent", "endpoint", endpoint, "bytes", sent.size, "seconds", time.Since(start).Seconds())
	if err := j.prove(ctx, stored, opened.format, sent.size, sent.check.digest()); err != nil {
		return false, j.discard(ctx, stored, err)
	}
	if err := stored.commit(); err != nil {
		return false, j.discard(ctx, stored, err)
	}
	if err := j.writeRecord(ctx, opened.format); err != nil {
		return false, j.discard(ctx, stored, err)
	}
	return false, nil
}

// discard removes what is not a backup. The record may have been written although its response was lost.
func (j *job) discard(ctx context.Context, stored object, err error) error {
	j.result = Result{}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	failed := errors.Join(j.remove(ctx, j.recordName()), ignoreNotFound(stored.remove(ctx)))
	if failed != nil {
		return fail("", err, "%s stays, and is no backup, since it could not be removed (%s)",
			j.snapshotName(), short(failed))
	}
	return err
}

// remove removes what is stored under these names, as far as it is there.
func (j *job) remove(ctx context.Context, names ...string) error {
	for _, name := range names {
		found, err := j.store.find(ctx, name)
		if err == nil {
			err = found.remove(ctx)
		}
		if ignoreNotFound(err) != nil {
			return fail("", err, "%s cannot be removed", name)
		}
	}
	return nil
}

func (j *job) writeRecord(ctx context.Context, format string) error {
	content, err := json.MarshalIndent(Record{Format: format, Vault: j.task.Vault, Result: j.result}, "", "  ")
	if err != nil {
		return err
	}
	if err := j.store.putSmall(ctx, j.recordName(), j.owner(), append(content, '\n')); err != nil {
		return fail("", err, "%s cannot be written", j.recordName())
	}
	j.result.Vault = &j.task.Vault
	return nil
}

// prove reads a snapshot back. It is stored when it is what was sent, and intact when it is one.
func (j *job) prove(ctx context.Context, stored object, format string, size int64, digest string) error {
	start := time.Now()
	got, err := j.readTo(ctx, stored, format, size, digest, io.Discard)
	if err != nil {
		return err
	}
	read := time.Now().UTC()
	j.result.Size, j.result.SHA256, j.result.StoredTime = size, digest, &read
	j.log.Info("Read back", "bytes", size, "seconds", time.Since(start).Seconds())
	if got.wrong != nil {
		return got.wrong
	}
	if j.result.Revision, err = j.revision(ctx, stored, format, got.index); err != nil {
		return err
	}
	intact := time.Now().UTC()
	j.result.IntactTime = &intact
	return nil
}

// readTo copies a snapshot out of the store, and fails unless it is as long as it has to be and has
// the digest. Whether it is complete is up to the caller.
func (j *job) readTo(
	ctx context.Context, stored object, format string, size int64, digest string, to io.Writer,
) (*reading, error) {
	content, err := stored.open(ctx)
	if err != nil {
		return nil, fail("", err, "%s cannot be read back", j.snapshotName())
	}
	defer func() { _ = content.Close() }()
	got, err := j.newReading(content, format)
	if err != nil {
		return nil, err
	}
	defer got.check.close()
	_, err = io.Copy(to, got)
	switch {
	case errors.Is(got.failed, io.ErrUnexpectedEOF), got.failed == nil && got.ended != nil && got.size != size:
		return nil, fail(DigestMismatch, nil, "The store has another snapshot than was sent: it has %d bytes of %d",
			got.size, size)
	case got.failed != nil:
		return nil, fail("", got.failed, "%s cannot be read back", j.snapshotName())
	case got.ended == nil: // who read gave up
		return nil, err
	case got.check.digest() != digest:
		return nil, fail(DigestMismatch, nil, "The store has another snapshot than was sent: its SHA-256 is %s, and not %s",
			got.check.digest(), printable(digest))
	}
	return got, nil
}

// revision is what a snapshot tells of its age.
func (j *job) revision(ctx context.Context, stored object, format string, index int64) (int64, error) {
	if format != formatEtcd {
		return index, nil
	}
	at, closer, err := stored.at(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = closer.Close() }()
	revision, err := revisionOf(at)
	if err != nil {
		return 0, fail(Incomplete, err, "The revision of the snapshot cannot be read")
	}
	return revision, nil
}

// wanted reads what is known of a backup, and checks that it is the one that is meant.
func (j *job) wanted(ctx context.Context) (*Record, object, error) {
	record, err := readRecord(ctx, j.store, j.task.Name)
	if err != nil {
		return nil, nil, err
	}
	if j.task.Want != "" && j.task.Want != record.Result.SHA256 {
		return nil, nil, fail(DigestMismatch, nil,
			"%s tells of another snapshot than was backed up: its SHA-256 is %q, and not %s",
			j.recordName(), printable(record.Result.SHA256), j.task.Want)
	}
	j.result.Vault = &record.Vault
	stored, err := j.store.find(ctx, j.snapshotName())
	return record, stored, err
}

// delete removes the snapshot first: as long as there is NAME.json it is known whose it is.
func (j *job) delete(ctx context.Context) error {
	if j.owner() == "" {
		return fail(Failed, nil, "The task does not tell the UID of the Vault")
	}
	record, err := readRecord(ctx, j.store, j.task.Name)
	if isNotFound(err) {
		return ignoreNotFound(j.store.clean(ctx, j.snapshotName(), j.owner()))
	}
	if err != nil {
		return err
	}
	if record.Vault.UID != j.owner() {
		return fail(Refused, nil, "The backup %s is of another Vault", j.task.Name)
	}
	for _, name := range []string{j.snapshotName(), j.recordName()} {
		stored, err := j.store.find(ctx, name)
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		stays, err := stored.hide(ctx)
		if err != nil {
			return fail("", err, "%s cannot be removed", name)
		}
		if stays != "" {
			j.result.Message = printable(j.result.Message + "; " + stays)
		}
	}
	return nil
}

// reading passes a snapshot on, and checks it meanwhile. It ends with an error, and not with EOF,
// when the snapshot is not complete.
type reading struct {
	job   *job
	from  io.Reader
	check checker
	size  int64
	// want is the digest at the end, if it has to be one.
	want  string
	index int64
	// failed is why the source ended too early, and wrong what is wrong with what it had.
	failed, wrong, ended error
}

func (j *job) newReading(from io.Reader, format string) (*reading, error) {
	check, err := newChecker(format)
	return &reading{job: j, from: from, check: check}, err
}

func (r *reading) Read(p []byte) (int, error) {
	if r.ended != nil {
		return 0, r.ended
	}
	n, err := r.from.Read(p)
	if n > 0 {
		r.moved()
		r.size += int64(n)
		if _, err := r.check.Write(p[:n]); r.wrong == nil {
			r.wrong = err
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		if r.wrong == nil {
			r.index, r.wrong = r.check.finish()
		}
		if r.wrong == nil && r.want != "" && r.want != r.check.digest() {
			r.wrong = fail(DigestMismatch, nil, "The snapshot has changed while it was restored")
		}
		if r.wrong != nil {
			err = r.wrong
		}
	case err != nil:
		r.failed = err
	}
	r.ended = err
	if err != nil {
		// Who receives it may need as long to use it.
		r.job.alive.Reset(stallAfter + takeTimeout)
	}
	return n, err
}

// moved says that something was sent or received.
func (r *reading) moved() { r.job.alive.Reset(stallAfter) }
