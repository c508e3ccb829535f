package backup

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"hash/fnv"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vault-operator/vault-operator/internal/vaultclient"
	"github.com/vault-operator/vault-operator/internal/vaultversion"
)

const (
	// markerKey is in an etcd that a backup was restored into, outside of Vault's prefix.
	markerKey = "vault-operator/restore"
	// maxOps and maxBytes are of one transaction: etcd takes 128 operations, and 1.5 MiB.
	// https://etcd.io/docs/v3.6/dev-guide/limit/
	maxOps   = 128
	maxBytes = 1 << 20
	// writers write at the same time, each other keys than the others.
	writers = 4
	// restoreTries is how often a transaction is tried while etcd elects a leader, with a second
	// between two.
	restoreTries = 60
)

// Vault takes itself to be initialized when it has one of the first two. They are written at the end,
// together with the marker that says so.
// https://github.com/hashicorp/vault/blob/v1.21.0/vault/barrier_aes_gcm.go
const (
	keyring     = "core/keyring"
	oldSentinel = "barrier/init"
)

var written = []string{keyring, oldSentinel, sealConfig}

// marker says which backup etcd has, and whether all of it.
type marker struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Done   bool   `json:"done"`
	// Writer is a random name of the process that writes: no other one may at the same time.
	Writer string `json:"writer,omitempty"`
}

func (j *job) restore(ctx context.Context) error {
	record, stored, err := j.wanted(ctx)
	if err != nil {
		return err
	}
	if err := j.fits(record); err != nil {
		return err
	}
	source, err := j.source()
	if err != nil {
		return err
	}
	switch source := source.(type) {
	case *etcdSource:
		if record.Format != formatEtcd {
			return fail(Refused, nil, "The backup is of integrated storage, and cannot be restored into etcd")
		}
		err = j.restoreEtcd(ctx, source, record, stored)
	case *raftSource:
		if record.Format != formatRaft {
			return fail(Refused, nil, "The backup is of etcd, and cannot be restored into integrated storage")
		}
		err = j.restoreRaft(ctx, source, record, stored)
	}
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	j.result.RestoredTime = &now
	return nil
}

// fits refuses a Vault that could not use the data. What is not known is not compared.
func (j *job) fits(record *Record) error {
	has, into := &record.Vault, &j.task.Vault
	switch {
	case has.Version != "" && into.Version != "" && vaultversion.Lower(into.Version, has.Version):
		return fail(Refused, nil, "The backup is of Vault %s, and the Vault to restore into has %s: set its spec.version to "+
			"that or a higher one", printable(has.Version), into.Version)
	case has.SealType != "" && into.SealType != "" && has.SealType != into.SealType:
		return fail(Refused, nil, "The backup is of a Vault with the seal %s, and the Vault to restore into has %s: set its "+
			"spec.seal to that of the backup", printable(has.SealType), into.SealType)
	}
	return nil
}

// restoreRaft reads the snapshot twice: it is not known before the end of the first whether it is
// the right one, and a Vault that was founded to take it is of no use without.
func (j *job) restoreRaft(ctx context.Context, to *raftSource, record *Record, stored object) error {
	if err := j.prove(ctx, stored, record.Format, record.Result.Size, record.Result.SHA256); err != nil {
		return err
	}
	made, err := to.found(ctx, record.Vault.Version)
	for try := 1; err == nil; try++ {
		failed := j.giveRaft(ctx, to, made, record, stored)
		if failed == nil {
			return nil
		}
		if try == maxTakes || ctx.Err() != nil {
			err = fail("", failed, "Vault was initialized to take the snapshot, with keys that nobody has, and has no data")
		}
	}
	return err
}

// giveRaft gives Vault the snapshot.
func (j *job) giveRaft(
	ctx context.Context, to *raftSource, made *vaultclient.InitResponse, record *Record, stored object,
) error {
	start := time.Now()
	content, err := stored.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()
	sent, err := j.newReading(content, record.Format)
	if err != nil {
		return err
	}
	defer sent.check.close()
	sent.want = record.Result.SHA256
	if err := to.take(ctx, made, sent); err != nil {
		if sent.ended != nil && !errors.Is(sent.ended, io.EOF) {
			return sent.ended
		}
		return err
	}
	j.log.Info("Restored", "seconds", time.Since(start).Seconds())
	return nil
}

// restoreEtcd writes what Vault has in the snapshot into an etcd that is empty.
func (j *job) restoreEtcd(ctx context.Context, to *etcdSource, record *Record, stored object) error {
	client, err := to.dial(ctx, to.Endpoints...)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	r := &etcdRestore{job: j, client: client, prefix: to.prefix(), last: map[string]change{}}
	mark := marker{Name: j.task.Name, SHA256: record.Result.SHA256, Writer: rand.Text()}
	done, err := r.begin(ctx, mark)
	if err != nil {
		return err
	}
	if done {
		// A Job of before has done it, whose result did not arrive. Vault may use it already.
		j.log.Info("The backup was restored already")
		return nil
	}
	path, err := j.download(ctx, record, stored)
	if err != nil {
		return errors.Join(err, r.forget(ctx))
	}
	defer func() { _ = os.Remove(path) }()
	start := time.Now()
	err = r.copy(ctx, path)
	if err == nil {
		err = r.finish(ctx, mark)
	}
	if err != nil {
		return fail("", err, "The backup is restored in part, which Vault does not use; restore again to go on")
	}
	j.log.Info("Restored", "seconds", time.Since(start).Seconds())
	return nil
}

// download copies a snapshot into a file, since what is in it has no order in which it can be
// streamed, and checks it.
func (j *job) download(ctx context.Context, record *Record, stored object) (path string, err error) {
	file, err := os.CreateTemp(j.files.Scratch, "snapshot-")
	if err != nil {
		return "", fail("", err, "There is no room to unpack the snapshot")
	}
	path = file.Name()
	got, err := j.readTo(ctx, stored, record.Format, record.Result.Size, record.Result.SHA256, file)
	if err == nil {
		err = got.wrong
	}
	if err == nil {
		j.result.Revision, err = revisionOf(file)
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return "", errors.Join(err, os.Remove(path))
	}
	now := time.Now().UTC()
	j.result.Size, j.result.SHA256 = got.size, got.check.digest()
	j.result.StoredTime, j.result.IntactTime = &now, &now
	j.log.Info("Downloaded", "bytes", got.size)
	return path, nil
}

// etcdRestore writes into an etcd.
type etcdRestore struct {
	job    *job
	client *clientv3.Client
	prefix string
	// mark is the marker's value: nothing is written without it.
	mark string
	// last is what is written at the end, by its name.
	last map[string]change
}

func (m marker) String() string {
	text, _ := json.Marshal(m) // of such fields it does not fail
	return string(text)
}

// begin marks an etcd that is empty. One that is marked is gone on with, or has it all.
func (r *etcdRestore) begin(ctx context.Context, mark marker) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	r.mark = mark.String()
	there, err := r.client.Get(ctx, markerKey)
	if err != nil {
		return false, fail("", err, "etcd does not respond")
	}
	if len(there.Kvs) > 0 {
		return r.goOn(ctx, mark, there.Kvs[0].Value)
	}
	// All keys, of which one is enough.
	all := []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithLimit(1), clientv3.WithKeysOnly()}
	found, err := r.client.Get(ctx, "\x00", all...)
	if err != nil {
		return false, fail("", err, "etcd does not respond")
	}
	if len(found.Kvs) > 0 {
		return false, fail(Refused, nil, "The etcd to restore into is not empty: it has the key %q",
			printable(string(found.Kvs[0].Key)))
	}
	response, err := r.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision("\x00").WithRange("\x00"), "=", 0)).
		Then(clientv3.OpPut(markerKey, r.mark)).Commit()
	if err != nil {
		return false, fail("", err, "etcd cannot be written to")
	}
	if !response.Succeeded {
		return false, fail(Refused, nil, "The etcd to restore into is not empty any more")
	}
	return false, nil
}

// goOn decides what to do with an etcd that is marked. What a restore of another backup has left that was
// cut off is removed: Vault does not use it, and all of it was written under its mark, in an etcd that was
// empty.
func (r *etcdRestore) goOn(ctx context.Context, mark marker, there []byte) (done bool, err error) {
	var found marker
	err = json.Unmarshal(there, &found)
	switch {
	case err == nil && found.Name == mark.Name && found.SHA256 == mark.SHA256:
		if found.Done {
			return true, nil
		}
		return false, r.takeOver(ctx, there)
	case err != nil || found.Done:
		return false, fail(Refused, nil, "Another backup was restored into this etcd, %q; restore into one that is empty",
			printable(found.Name))
	}
	if err := r.takeOver(ctx, there, clientv3.OpDelete(r.prefix, clientv3.WithPrefix())); err != nil {
		return false, err
	}
	r.job.log.Info("What another restore had left is removed", "backup", found.Name)
	return false, nil
}

// takeOver marks what a pod of before has begun with, which may run yet where nobody sees it, and does more to it.
// From here on that pod cannot write: its old values would come after the new ones of this one.
func (r *etcdRestore) takeOver(ctx context.Context, there []byte, more ...clientv3.Op) error {
	response, err := r.client.Txn(ctx).
		If(append(r.unused(), clientv3.Compare(clientv3.Value(markerKey), "=", string(there)))...).
		Then(append(more, clientv3.OpPut(markerKey, r.mark))...).Commit()
	if err != nil {
		return fail("", err, "etcd cannot be written to")
	}
	if !response.Succeeded {
		return errMeanwhile()
	}
	return nil
}

// unused says that Vault is not initialized.
func (r *etcdRestore) unused() []clientv3.Cmp {
	var all []clientv3.Cmp
	for _, name := range []string{keyring, oldSentinel} {
		all = append(all, clientv3.Compare(clientv3.CreateRevision(r.prefix+name), "=", 0))
	}
	return all
}

func errMeanwhile() error {
	return fail(Refused, nil, "Vault was initialized while it was restored, or another restore is at it. If it was "+
		"initialized delete it with its volumes, create it again, and restore then")
}

// finish has Vault use what was written.
func (r *etcdRestore) finish(ctx context.Context, mark marker) error {
	if c, ok := r.last[r.prefix+keyring]; !ok || c.deleted {
		return fail(Incomplete, nil, "The snapshot has no keyring of Vault")
	}
	mark.Done = true
	ops := []clientv3.Op{clientv3.OpPut(markerKey, mark.String())}
	for key, c := range r.last {
		if !c.deleted {
			ops = append(ops, clientv3.OpPut(key, string(c.value)))
		}
	}
	err := r.put(ctx, ops)
	if reasonOf(err) != Refused {
		return err
	}
	// The transaction may have been committed although its response was lost.
	limited, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	there, failed := r.client.Get(limited, markerKey)
	if failed == nil && len(there.Kvs) == 1 && string(there.Kvs[0].Value) == mark.String() {
		return nil
	}
	return err
}

// forget removes the marker when nothing else was written yet by this Job, or one of before.
func (r *etcdRestore) forget(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), etcdTimeout)
	defer cancel()
	_, err := r.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(r.prefix).WithPrefix(), "=", 0),
			clientv3.Compare(clientv3.Value(markerKey), "=", r.mark)).
		Then(clientv3.OpDelete(markerKey)).Commit()
	return err
}

// change is a revision of a key.
type change struct {
	key, value []byte
	deleted    bool
}

// copy repeats the revisions that the snapshot has in their order: the newest of each key is the
// last, and no list of keys has to be in memory.
func (r *etcdRestore) copy(ctx context.Context, path string) error {
	db, err := bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true})
	if err != nil {
		return fail(Incomplete, err, "The snapshot cannot be read")
	}
	defer func() { _ = db.Close() }()
	group, ctx := errgroup.WithContext(ctx)
	var queues [writers]chan change
	for i := range queues {
		queues[i] = make(chan change)
		group.Go(func() error { return r.write(ctx, queues[i]) })
	}
	group.Go(func() error {
		defer func() {
			for _, queue := range queues {
				close(queue)
			}
		}()
		return db.View(func(tx *bbolt.Tx) error {
			bucket := tx.Bucket([]byte(etcdKeys))
			if bucket == nil {
				return fail(Incomplete, errBolt, "The snapshot cannot be read")
			}
			return bucket.ForEach(func(revision, value []byte) error {
				return r.queue(ctx, queues[:], revision, value)
			})
		})
	})
	return group.Wait()
}

// queue gives a revision to the writer of its key.
func (r *etcdRestore) queue(ctx context.Context, queues []chan change, revision, value []byte) error {
	var kv mvccpb.KeyValue
	if err := proto.Unmarshal(value, &kv); err != nil {
		return fail(Incomplete, err, "The snapshot has a key that cannot be read")
	}
	if !r.wanted(&kv) {
		return nil
	}
	// https://github.com/etcd-io/etcd/blob/v3.6.8/server/storage/mvcc/revision.go
	deleted := len(revision) == 18 && revision[17] == 't'
	if slices.Contains(written, strings.TrimPrefix(string(kv.Key), r.prefix)) {
		r.last[string(kv.Key)] = change{key: kv.Key, value: kv.Value, deleted: deleted}
		return nil
	}
	sum := fnv.New32a()
	_, _ = sum.Write(kv.Key)
	select {
	case queues[sum.Sum32()%uint32(len(queues))] <- change{key: kv.Key, value: kv.Value, deleted: deleted}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wanted leaves out what is not Vault's, and the lock of the node that was active: it would keep
// all others from becoming active, since the lease that ends it is not restored.
func (r *etcdRestore) wanted(kv *mvccpb.KeyValue) bool {
	name, isVaults := strings.CutPrefix(string(kv.Key), r.prefix)
	return isVaults && kv.Lease == 0 && name != "core/lock" && !strings.HasPrefix(name, "core/lock/")
}

// write collects what comes into transactions.
func (r *etcdRestore) write(ctx context.Context, queue <-chan change) error {
	var ops []clientv3.Op
	at, size := map[string]int{}, 0
	flush := func() error {
		err := r.put(ctx, ops)
		ops, size = ops[:0], 0
		clear(at)
		return err
	}
	for c := range queue {
		key := string(c.key)
		added := len(key) + len(c.value) + 16
		i, again := at[key]
		if size > 0 && (size+added > maxBytes || len(ops) == maxOps && !again) {
			if err := flush(); err != nil {
				return err
			}
			again = false
		}
		op := clientv3.OpPut(key, string(c.value))
		if c.deleted {
			op = clientv3.OpDelete(key)
		}
		size += added
		if again { // a transaction may not have a key twice
			ops[i] = op
			continue
		}
		at[key] = len(ops)
		ops = append(ops, op)
	}
	if len(ops) == 0 {
		return nil
	}
	return flush()
}

// put commits a transaction, as long as the marker is what it was.
func (r *etcdRestore) put(ctx context.Context, ops []clientv3.Op) error {
	for try := 1; ; try++ {
		limited, cancel := context.WithTimeout(ctx, vaultTimeout)
		response, err := r.client.Txn(limited).
			If(append(r.unused(), clientv3.Compare(clientv3.Value(markerKey), "=", r.mark))...).Then(ops...).Commit()
		cancel()
		if err == nil && !response.Succeeded {
			return errMeanwhile()
		}
		if err == nil {
			r.job.alive.Reset(stallAfter)
			return nil
		}
		var etcd rpctypes.EtcdError
		if !errors.As(err, &etcd) || etcd.Code() != codes.Unavailable || try == restoreTries {
			return fail("", err, "etcd cannot be written to")
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
