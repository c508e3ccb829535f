package backup

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/minio/minio-go/v7"
)

// What the names of a backup's two objects end with.
const (
	SnapshotSuffix = ".snapshot"
	recordSuffix   = ".json"
)

// maxRecord is the most bytes of a NAME.json that are read.
const maxRecord = 64 << 10

// Record is what NAME.json has. A backup is there when it is.
type Record struct {
	// Format of the snapshot: etcd, as "etcdctl snapshot save" writes it, or raft, as "vault
	// operator raft snapshot save" does.
	Format string      `json:"format"`
	Vault  Description `json:"vault"`
	// Result of the Job that wrote the backup.
	Result Result `json:"result"`
}

// store is where backups are.
type store interface {
	// put stores what a reader has. Nothing is stored when the reader, or anything else, fails.
	// An object of another owner is not replaced.
	put(ctx context.Context, name, owner string, r io.Reader) (object, error)
	// find finds what is stored under a name. The error has the reason NotFound when nothing is.
	find(ctx context.Context, name string) (object, error)
	// putSmall stores a few bytes.
	putSmall(ctx context.Context, name, owner string, content []byte) error
	// clean removes what was left of a put that was cut off.
	clean(ctx context.Context, name, owner string) error
}

// object is something stored.
type object interface {
	// open returns the content from its start.
	open(ctx context.Context) (io.ReadCloser, error)
	// at reads parts of the content.
	at(ctx context.Context) (io.ReaderAt, io.Closer, error)
	// owner is whose it is, or nothing where that is not stored with it.
	owner() string
	// commit gives the object its name, where put did not yet.
	commit() error
	// remove removes exactly what was put, as far as the store lets it.
	remove(ctx context.Context) error
	// hide removes the object from where it is found, and returns what stays nevertheless.
	hide(ctx context.Context) (stays string, err error)
}

// openStore opens the location of a task.
func openStore(location *Location, files *Files) (store, error) {
	switch {
	case location.S3 != nil && location.Directory == "":
		return newS3Store(location.S3, location.Prefix, files)
	case location.Directory != "" && location.S3 == nil:
		return newDirectoryStore(location.Directory, location.Prefix)
	}
	return nil, errors.New("a location is either a bucket or a directory")
}

// safeName says whether a name is one, and not a path.
func safeName(name string) bool {
	return name != "" && name == path.Base(name) && !strings.HasPrefix(name, ".") && len(name) <= 200
}

// readRecord reads NAME.json.
func readRecord(ctx context.Context, s store, name string) (*Record, error) {
	found, err := s.find(ctx, name+recordSuffix)
	if err != nil {
		return nil, err
	}
	content, err := readSmall(ctx, found)
	if err != nil {
		return nil, err
	}
	var record Record
	if err := json.Unmarshal(content, &record); err != nil || record.Vault.UID == "" || record.Result.SHA256 == "" ||
		!record.Vault.Plausible() {
		return nil, fail(Refused, nil, "%s is not of a backup of this operator", name+recordSuffix)
	}
	return &record, nil
}

func readSmall(ctx context.Context, o object) ([]byte, error) {
	content, err := o.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = content.Close() }()
	return io.ReadAll(io.LimitReader(content, maxRecord))
}

// isNotFound says that there is no such object.
func isNotFound(err error) bool {
	var response minio.ErrorResponse
	if errors.As(err, &response) {
		return classifyS3(response) == NotFound
	}
	return err != nil && reasonOf(err) == NotFound
}
