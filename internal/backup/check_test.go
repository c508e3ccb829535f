package backup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

// etcdSnapshot is a snapshot as etcd makes it, with so many revisions.
func etcdSnapshot(t *testing.T, revisions int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	for from := 0; from <= revisions; from += 1000 {
		err := db.Update(func(tx *bbolt.Tx) error {
			for _, name := range []string{"alarm", "auth", etcdKeys, "lease", "meta"} {
				if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
					return err
				}
			}
			for i := from; i < min(from+1000, revisions); i++ {
				key := rawRevision(int64(i + 2))
				if err := tx.Bucket([]byte(etcdKeys)).Put(key, bytes.Repeat([]byte{byte(i)}, 1+i%5000)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	return append(content, sum[:]...)
}

func rawRevision(main int64) []byte {
	key := make([]byte, 17)
	for i := range 8 {
		key[i] = byte(main >> (56 - 8*i))
	}
	key[8] = '_'
	return key
}

// raftFile is a file of a snapshot of integrated storage.
type raftFile struct{ name, content string }

// raftFiles are those of a snapshot that is whole.
func raftFiles(state string) []raftFile {
	meta := `{"Version":1,"ID":"bolt-snapshot","Index":4711,"Term":3}`
	sums := fmt.Sprintf("%x  meta.json\n%x  state.bin\n", sha256.Sum256([]byte(meta)), sha256.Sum256([]byte(state)))
	return []raftFile{{raftMeta, meta}, {raftState, state}, {raftSums, sums}, {raftSealed, "sealed"}}
}

func raftSnapshot(t *testing.T, files []raftFile) []byte {
	t.Helper()
	var zipped bytes.Buffer
	compressor := gzip.NewWriter(&zipped)
	archive := tar.NewWriter(compressor)
	for _, file := range files {
		err := archive.WriteHeader(&tar.Header{Name: file.name, Mode: 0o600, Size: int64(len(file.content))})
		if err == nil {
			_, err = io.WriteString(archive, file.content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := compressor.Close(); err != nil {
		t.Fatal(err)
	}
	return zipped.Bytes()
}

// check gives a snapshot to a checker, in pieces of a size. Its digest is right, whatever else is
// wrong with it.
func check(t *testing.T, format string, content []byte, piece int) (int64, error) {
	t.Helper()
	checker, err := newChecker(format)
	if err != nil {
		t.Fatal(err)
	}
	defer checker.close()
	var index int64
	for part := range slices.Chunk(content, piece) {
		if _, wrong := checker.Write(part); err == nil {
			err = wrong
		}
	}
	if err == nil {
		index, err = checker.finish()
	}
	if got, want := checker.digest(), fmt.Sprintf("%x", sha256.Sum256(content)); got != want {
		t.Errorf("in pieces of %d the digest is %s, want %s", piece, got, want)
	}
	return index, err
}

func TestCheckEtcd(t *testing.T) {
	whole := etcdSnapshot(t, 100)
	for _, piece := range []int{1, 31, 32, 33, 4096, len(whole)} {
		if _, err := check(t, formatEtcd, whole, piece); err != nil {
			t.Errorf("in pieces of %d: %v", piece, err)
		}
	}
	flipped := bytes.Clone(whole)
	flipped[5000]++
	for name, content := range map[string][]byte{
		"empty": nil, "a sum alone": whole[:31], "truncated": whole[:len(whole)-1], "without its sum": whole[:len(whole)-32],
		"longer": append(bytes.Clone(whole), 0), "changed": flipped,
	} {
		if _, err := check(t, formatEtcd, content, 1000); reasonOf(err) != Incomplete {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckRaft(t *testing.T) {
	whole := raftFiles(strings.Repeat("state ", 100_000))
	content := raftSnapshot(t, whole)
	for _, piece := range []int{1, 1000, len(content)} {
		if index, err := check(t, formatRaft, content, piece); err != nil || index != 4711 {
			t.Errorf("in pieces of %d: %d, %v", piece, index, err)
		}
	}
	changed := func(i int, content string) []raftFile {
		files := append([]raftFile{}, whole...)
		files[i].content = content
		return files
	}
	flipped := bytes.Clone(content)
	flipped[len(flipped)/2]++
	for name, content := range map[string][]byte{
		"empty":                nil,
		"no gzip":              []byte("no gzip at all, but a text"),
		"truncated":            content[:len(content)-1],
		"half":                 content[:len(content)/2],
		"flipped":              flipped,
		"something behind":     append(bytes.Clone(content), "behind"...),
		"of a former leader":   raftSnapshot(t, whole[:3]),
		"without sums":         raftSnapshot(t, append(append([]raftFile{}, whole[:2]...), whole[3])),
		"without state":        raftSnapshot(t, append(append([]raftFile{}, whole[0]), whole[2:]...)),
		"another state":        raftSnapshot(t, changed(1, "another")),
		"another meta":         raftSnapshot(t, changed(0, `{"Index":4712}`)),
		"an empty sealed file": raftSnapshot(t, changed(3, "")),
		"another file":         raftSnapshot(t, append(append([]raftFile{}, whole...), raftFile{"more", "more"})),
		"sums of more":         raftSnapshot(t, changed(2, whole[2].content+whole[2].content[:66]+"more\n")),
	} {
		if _, err := check(t, formatRaft, content, 1000); reasonOf(err) != Incomplete {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRevision(t *testing.T) {
	for _, revisions := range []int{0, 1, 2, 100, 5000} {
		content := etcdSnapshot(t, revisions)
		got, err := revisionOf(bytes.NewReader(content))
		if err != nil || got != int64(revisions+1) {
			t.Errorf("of %d revisions: %d, %v", revisions, got, err)
		}
	}
}

// FuzzRevision reads what a store may give for a snapshot.
func FuzzRevision(f *testing.F) {
	f.Fuzz(func(t *testing.T, at int, with []byte) {
		content := etcdSnapshot(t, 10)
		if at >= 0 && at < len(content) {
			copy(content[at:], with)
		}
		_, _ = revisionOf(bytes.NewReader(content)) // it does not panic
	})
}
