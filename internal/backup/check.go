package backup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"strings"
)

// Formats of snapshots.
const (
	formatEtcd = "etcd"
	formatRaft = "raft"
)

// checker is given a snapshot, and tells at its end whether it is complete.
type checker interface {
	io.Writer
	// finish returns the index that the snapshot tells of itself, or 0.
	finish() (int64, error)
	// digest returns the SHA-256 of the snapshot, once it was finished.
	digest() string
	// close ends it before its end.
	close()
}

func newChecker(format string) (checker, error) {
	switch format {
	case formatEtcd:
		return &etcdChecker{sum: sha256.New()}, nil
	case formatRaft:
		return newRaftChecker(), nil
	}
	return nil, fail(Incomplete, nil, "It is not known how to check a snapshot of %q", printable(format))
}

// etcdChecker checks the sum of a snapshot of etcd: its last 32 bytes are that of the rest. That of
// all is made of the same pass.
type etcdChecker struct {
	// sum is of what comes before tail.
	sum  hash.Hash
	tail []byte
}

func (c *etcdChecker) Write(p []byte) (int, error) {
	if len(p) >= sha256.Size {
		c.sum.Write(c.tail)
		c.sum.Write(p[:len(p)-sha256.Size])
		c.tail = append(c.tail[:0], p[len(p)-sha256.Size:]...)
		return len(p), nil
	}
	c.tail = append(c.tail, p...)
	if more := len(c.tail) - sha256.Size; more > 0 {
		c.sum.Write(c.tail[:more])
		c.tail = slices.Delete(c.tail, 0, more)
	}
	return len(p), nil
}

func (c *etcdChecker) finish() (int64, error) {
	if !bytes.Equal(c.sum.Sum(nil), c.tail) {
		return 0, fail(Incomplete, nil, "The snapshot of etcd does not end with the sum of what it has")
	}
	return 0, nil
}

func (c *etcdChecker) digest() string {
	c.sum.Write(c.tail)
	c.tail = nil
	return hex.EncodeToString(c.sum.Sum(nil))
}

func (c *etcdChecker) close() {}

// The files of a snapshot of integrated storage.
// https://github.com/hashicorp/raft-snapshot
const (
	raftMeta   = "meta.json"
	raftState  = "state.bin"
	raftSums   = "SHA256SUMS"
	raftSealed = "SHA256SUMS.sealed"
	// maxRaftFile is the most bytes of a file other than state.bin.
	maxRaftFile = 64 << 10
)

// raftChecker checks the sums of a snapshot of integrated storage. The file that Vault writes last
// has to be there too: when the node stops being active, the response ends before it, and the
// rest is a readable archive. The library that Vault uses does not look for it.
type raftChecker struct {
	sum     hash.Hash
	pipe    *io.PipeWriter
	verdict chan error
	index   int64
}

func newRaftChecker() *raftChecker {
	reader, writer := io.Pipe()
	c := &raftChecker{sum: sha256.New(), pipe: writer, verdict: make(chan error, 1)}
	go func() {
		var err error
		c.index, err = checkRaft(reader)
		if err != nil {
			err = fail(Incomplete, err, "The snapshot of Vault is not complete")
		}
		_ = reader.CloseWithError(err)
		c.verdict <- err
	}()
	return c
}

func (c *raftChecker) Write(p []byte) (int, error) {
	c.sum.Write(p)
	return c.pipe.Write(p)
}

func (c *raftChecker) finish() (int64, error) {
	_ = c.pipe.Close()
	err := <-c.verdict
	return c.index, err
}

func (c *raftChecker) digest() string { return hex.EncodeToString(c.sum.Sum(nil)) }

func (c *raftChecker) close() { _ = c.pipe.CloseWithError(errors.New("not read to its end")) }

// checkRaft reads a snapshot to its end, and returns its index.
func checkRaft(r io.Reader) (int64, error) {
	unzipped, err := gzip.NewReader(r)
	if err != nil {
		return 0, err
	}
	files, sums, err := readRaft(unzipped)
	if err != nil {
		return 0, err
	}
	// What is behind the archive belongs to the sum of gzip.
	//nolint:gosec // nothing of it is kept, and the Job has a deadline
	if _, err := io.Copy(io.Discard, unzipped); err != nil {
		return 0, err
	}
	for _, name := range []string{raftSums, raftSealed} {
		if len(files[name]) == 0 {
			return 0, fmt.Errorf("it has no %s", name)
		}
	}
	listed := map[string]string{}
	for line := range strings.Lines(string(files[raftSums])) {
		sum, name, _ := strings.Cut(strings.TrimRight(line, "\n"), "  ")
		listed[name] = sum
	}
	if !maps.Equal(listed, sums) {
		return 0, errors.New("its sums do not match what it has")
	}
	// https://pkg.go.dev/github.com/hashicorp/raft#SnapshotMeta
	var meta struct{ Index int64 }
	if err := json.Unmarshal(files[raftMeta], &meta); err != nil || meta.Index <= 0 {
		return 0, fmt.Errorf("its %s has no index", raftMeta)
	}
	return meta.Index, nil
}

// readRaft reads the archive: the small files, and the sums of the two that are listed.
func readRaft(r io.Reader) (files map[string][]byte, sums map[string]string, err error) {
	files, sums = map[string][]byte{}, map[string]string{}
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, sums, nil
		}
		if err != nil {
			return nil, nil, err
		}
		sum := sha256.New()
		switch header.Name {
		case raftState:
			//nolint:gosec // nothing of it is kept, and the Job has a deadline
			if _, err := io.Copy(sum, archive); err != nil {
				return nil, nil, err
			}
		case raftMeta, raftSums, raftSealed:
			content, err := io.ReadAll(io.LimitReader(archive, maxRaftFile))
			if err != nil {
				return nil, nil, err
			}
			sum.Write(content)
			files[header.Name] = content
		default:
			return nil, nil, fmt.Errorf("it has a file %q", printable(header.Name))
		}
		if header.Name == raftState || header.Name == raftMeta {
			sums[header.Name] = hex.EncodeToString(sum.Sum(nil))
		}
	}
}
