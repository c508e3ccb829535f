package backup

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// partialSuffix ends the names of files that are not whole yet.
const partialSuffix = ".partial"

// directoryStore is a directory of a volume. Others may write there as well, so that no link
// leads out of it.
type directoryStore struct {
	root *os.Root
	// dir in the root.
	dir string
}

func newDirectoryStore(directory, prefix string) (*directoryStore, error) {
	root, err := os.OpenRoot(directory)
	if err != nil {
		return nil, fail(BucketMissing, err, "The volume for backups cannot be opened")
	}
	dir := filepath.Clean(filepath.FromSlash(prefix))
	if prefix == "" {
		dir = "."
	}
	if !filepath.IsLocal(dir) {
		return nil, fail(Refused, nil, "The prefix %q leads out of the volume", printable(prefix))
	}
	return &directoryStore{root: root, dir: dir}, nil
}

// file is one of a directoryStore.
type file struct {
	store *directoryStore
	// temporary is the name until commit, and name that after it.
	temporary, name string
}

func (s *directoryStore) put(_ context.Context, name, owner string, r io.Reader) (object, error) {
	if err := s.root.MkdirAll(s.dir, 0o750); err != nil {
		return nil, fail("", err, "The directory for backups cannot be made")
	}
	f := &file{store: s, temporary: s.temporary(name, owner), name: filepath.Join(s.dir, name)}
	if err := f.write(r); err != nil {
		_ = s.root.Remove(f.temporary)
		return nil, fail("", err, "The backup cannot be written to the volume")
	}
	return f, nil
}

func (s *directoryStore) temporary(name, owner string) string {
	return filepath.Join(s.dir, "."+name+"."+filepath.Base(owner)+partialSuffix)
}

func (f *file) write(r io.Reader) error {
	out, err := f.store.root.OpenFile(f.temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, r)
	if err == nil {
		err = out.Sync()
	}
	if err == nil {
		// What is read back comes from the volume, and not from memory.
		_ = unix.Fadvise(int(out.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	return errors.Join(err, out.Close())
}

func (s *directoryStore) putSmall(ctx context.Context, name, owner string, content []byte) error {
	stored, err := s.put(ctx, name, owner, bytes.NewReader(content))
	if err != nil {
		return err
	}
	return stored.commit()
}

func (s *directoryStore) find(_ context.Context, name string) (object, error) {
	name = filepath.Join(s.dir, name)
	info, err := s.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fail(NotFound, nil, "The volume has no %s", filepath.Base(name))
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fail(Refused, nil, "%s is no file", filepath.Base(name))
	}
	return &file{store: s, temporary: name, name: name}, nil
}

func (s *directoryStore) clean(_ context.Context, name, owner string) error {
	err := s.root.Remove(s.temporary(name, owner))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (f *file) open(context.Context) (io.ReadCloser, error) {
	// Without O_NONBLOCK a pipe that took the place of the file would stop the Job for ever.
	return f.store.root.OpenFile(f.temporary, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

func (f *file) at(context.Context) (io.ReaderAt, io.Closer, error) {
	opened, err := f.store.root.Open(f.temporary)
	return opened, opened, err
}

func (f *file) owner() string { return "" }

func (f *file) commit() error {
	if f.temporary == f.name {
		return nil
	}
	if err := f.store.root.Rename(f.temporary, f.name); err != nil {
		return err
	}
	f.temporary = f.name
	dir, err := f.store.root.Open(f.store.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (f *file) remove(context.Context) error { return f.store.root.Remove(f.temporary) }

func (f *file) hide(ctx context.Context) (string, error) { return "", f.remove(ctx) }
