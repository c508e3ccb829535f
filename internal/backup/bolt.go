package backup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// The database file of etcd, of which only a few pages are read: bbolt itself has to map a whole
// file into memory, and a backup is in a store.
// https://github.com/etcd-io/bbolt/blob/main/internal/common/page.go
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	boltBranch = 0x01
	boltLeaf   = 0x02
	// boltHeader is the size of a page's header, of each of its elements, and of a bucket.
	boltHeader  = 16
	boltMaxPage = 64 << 20
	// boltMaxDepth is deeper than any tree is.
	boltMaxDepth = 32
)

// etcdKeys is the bucket that has all revisions of all keys.
// https://etcd.io/docs/v3.6/learning/data_model/
const etcdKeys = "key"

// errBolt is a file that is not what etcd wrote.
var errBolt = errors.New("it is not a database of etcd")

// boltFile reads pages of a file.
type boltFile struct {
	io.ReaderAt
	pageSize int64
}

// boltElement is one of a page: what is below a key.
type boltElement struct {
	key []byte
	// page is where a branch goes on.
	page uint64
	// value of a leaf.
	value []byte
}

// revisionOf is the newest revision that a snapshot of etcd has.
func revisionOf(r io.ReaderAt) (int64, error) {
	file, root, err := openBolt(r)
	if err != nil {
		return 0, err
	}
	bucket, err := file.find(root, []byte(etcdKeys))
	if err != nil {
		return 0, err
	}
	elements, err := file.last(bucket)
	if err != nil {
		return 0, err
	}
	if len(elements) == 0 {
		return 1, nil // the first is 2
	}
	key := elements[len(elements)-1].key
	if len(key) < 17 || key[8] != '_' {
		return 0, errBolt
	}
	return int64(binary.BigEndian.Uint64(key)), nil
}

// openBolt checks the first page, and returns the root of the tree.
func openBolt(r io.ReaderAt) (boltFile, uint64, error) {
	page := make([]byte, boltHeader+64)
	if _, err := r.ReadAt(page, 0); err != nil && !errors.Is(err, io.EOF) {
		return boltFile{}, 0, err
	}
	meta := page[boltHeader:]
	sum := fnv.New64a()
	_, _ = sum.Write(meta[:56])
	order := binary.LittleEndian
	pageSize := order.Uint32(meta[8:])
	if order.Uint32(meta) != boltMagic || order.Uint32(meta[4:]) != boltVersion ||
		order.Uint64(meta[56:]) != sum.Sum64() || pageSize < 1<<10 || pageSize > 1<<20 {
		return boltFile{}, 0, errBolt
	}
	return boltFile{ReaderAt: r, pageSize: int64(pageSize)}, order.Uint64(meta[16:]), nil
}

// find returns the value of a key, in the tree below a page.
func (f boltFile) find(page uint64, key []byte) ([]byte, error) {
	for range boltMaxDepth {
		elements, leaf, err := f.page(page)
		if err != nil {
			return nil, err
		}
		below := -1
		for i, element := range elements {
			if bytes.Compare(element.key, key) <= 0 {
				below = i
			}
		}
		switch {
		case below < 0, leaf && !bytes.Equal(elements[below].key, key):
			return nil, fmt.Errorf("%w: it has no bucket %q", errBolt, key)
		case leaf:
			return elements[below].value, nil
		}
		page = elements[below].page
	}
	return nil, errBolt
}

// last returns the last leaf of a bucket.
func (f boltFile) last(bucket []byte) ([]boltElement, error) {
	if len(bucket) < boltHeader {
		return nil, errBolt
	}
	page := binary.LittleEndian.Uint64(bucket)
	if page == 0 { // a small bucket is a page in the value itself
		elements, _, err := parseBolt(bucket[boltHeader:])
		return elements, err
	}
	for range boltMaxDepth {
		elements, leaf, err := f.page(page)
		if err != nil || leaf {
			return elements, err
		}
		if len(elements) == 0 {
			return nil, errBolt
		}
		page = elements[len(elements)-1].page
	}
	return nil, errBolt
}

// page reads a page, and what overflows it.
func (f boltFile) page(id uint64) (elements []boltElement, leaf bool, err error) {
	if id > 1<<40 {
		return nil, false, errBolt
	}
	content := make([]byte, f.pageSize)
	if _, err := f.ReadAt(content, int64(id)*f.pageSize); err != nil {
		return nil, false, err
	}
	if binary.LittleEndian.Uint64(content) != id {
		return nil, false, errBolt
	}
	if overflow := int64(binary.LittleEndian.Uint32(content[12:])); overflow > 0 {
		if overflow*f.pageSize > boltMaxPage {
			return nil, false, errBolt
		}
		content = append(content, make([]byte, overflow*f.pageSize)...)
		if _, err := f.ReadAt(content[f.pageSize:], int64(id+1)*f.pageSize); err != nil {
			return nil, false, err
		}
	}
	return parseBolt(content)
}

// parseBolt parses a page of a tree.
func parseBolt(page []byte) (elements []boltElement, leaf bool, err error) {
	if len(page) < boltHeader {
		return nil, false, errBolt
	}
	order := binary.LittleEndian
	flags, count := order.Uint16(page[8:]), int(order.Uint16(page[10:]))
	leaf = flags&boltLeaf != 0
	if !leaf && flags&boltBranch == 0 || len(page) < boltHeader*(1+count) {
		return nil, false, errBolt
	}
	for i := range count {
		at := boltHeader * (1 + i)
		raw := page[at:]
		var element boltElement
		var pos, keySize, valueSize uint64
		if leaf { // flags, pos, ksize, vsize
			pos, keySize = uint64(order.Uint32(raw[4:])), uint64(order.Uint32(raw[8:]))
			valueSize = uint64(order.Uint32(raw[12:]))
		} else { // pos, ksize, pgid
			pos, keySize = uint64(order.Uint32(raw)), uint64(order.Uint32(raw[4:]))
			element.page = order.Uint64(raw[8:])
		}
		if pos+keySize+valueSize > uint64(len(raw)) {
			return nil, false, errBolt
		}
		element.key, element.value = raw[pos:pos+keySize], raw[pos+keySize:pos+keySize+valueSize]
		elements = append(elements, element)
	}
	return elements, leaf, nil
}
