package main

import (
	"archive/tar"
	"bytes"
	"context"
	_ "embed" // for the source of pause
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// image is a container image that is made from binaries of this machine. There
// is no registry; the names are those of the official images, so that nothing
// that names them has to differ here.
type image struct {
	name       string
	entrypoint []string
	// user that runs it; root, if there is none.
	user string
	// files by their path in the image.
	files map[string]string
	// links are names of busybox's commands.
	busybox bool
}

const pauseName = "localhost/pause:1"

func pauseImage() image {
	return image{name: pauseName, entrypoint: []string{"/pause"}, files: map[string]string{"/pause": bin("pause")}}
}

func clusterImages() []image {
	return []image{
		pauseImage(),
		{name: "gcr.io/etcd-development/etcd:" + etcdVersion, files: map[string]string{
			"/usr/local/bin/etcd": bin("etcd"), "/usr/local/bin/etcdctl": bin("etcdctl"),
		}},
		{name: "docker.io/library/busybox:1.36", busybox: true, entrypoint: []string{"sh"}},
		vaultImage(vaultVersion),
	}
}

// ensureImages imports the images that nodes lack.
func ensureImages(ctx context.Context, images []image) error {
	for _, img := range images {
		for _, n := range nodes {
			if err := ensureImage(ctx, img, n); err != nil {
				return err
			}
		}
	}
	return nil
}

func ensureImage(ctx context.Context, img image, n node) error {
	if img.name == pauseName {
		if err := buildPause(ctx); err != nil {
			return err
		}
	}
	mark := n.dir("images", strings.NewReplacer("/", "_", ":", "_").Replace(img.name))
	key, err := img.key()
	if err != nil {
		return err
	}
	if content, err := os.ReadFile(mark); err == nil && string(content) == key {
		return nil
	}
	archive, err := img.archive(key)
	if err != nil {
		return fmt.Errorf("image %s: %w", img.name, err)
	}
	fmt.Printf("importing %s on %s\n", img.name, n.name)
	if err := n.load(ctx, archive); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(mark), 0o755); err != nil {
		return err
	}
	return writeFile(mark, []byte(key))
}

func (n node) load(ctx context.Context, archive string) error {
	_, err := n.ctr(ctx, "images", "import", archive)
	return err
}

// loadArchives imports image archives on all nodes. It prints what each image is
// called by its digest: that name, too, is known to the nodes, which never ask a
// registry for it.
func loadArchives(ctx context.Context, archives []string) error {
	for _, archive := range archives {
		tag, err := tagOf(archive)
		if err != nil {
			return fmt.Errorf("%s: %w", archive, err)
		}
		for _, n := range nodes {
			if err := n.load(ctx, archive); err != nil {
				return err
			}
		}
		byDigest, err := nameByDigest(ctx, tag)
		if err != nil {
			return err
		}
		fmt.Println(byDigest)
	}
	return nil
}

// nameByDigest makes an image that all nodes have known to them by its digest as well, and
// returns that name.
func nameByDigest(ctx context.Context, tag name.Tag) (byDigest string, err error) {
	for _, n := range nodes {
		digest, err := n.digestOf(ctx, tag.Name())
		if err != nil {
			return "", err
		}
		byDigest = tag.Context().Name() + "@" + digest
		if _, err := n.ctr(ctx, "images", "tag", "--force", tag.Name(), byDigest); err != nil {
			return "", err
		}
	}
	return byDigest, nil
}

// tagOf returns the name of the image in an archive.
func tagOf(archive string) (tag name.Tag, err error) {
	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(archive) })
	if err != nil {
		return tag, err
	}
	if len(manifest) != 1 || len(manifest[0].RepoTags) != 1 {
		return tag, fmt.Errorf("want one image with one tag, and it has %d images", len(manifest))
	}
	return name.NewTag(manifest[0].RepoTags[0])
}

// digestOf returns the digest of an image that the node has.
func (n node) digestOf(ctx context.Context, image string) (string, error) {
	out, err := n.ctr(ctx, "images", "list", "name=="+image)
	if err != nil {
		return "", err
	}
	// REF TYPE DIGEST SIZE PLATFORMS LABELS, below a title.
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if fields := strings.Fields(lines[len(lines)-1]); len(lines) == 2 && len(fields) > 2 {
		return fields[2], nil
	}
	return "", fmt.Errorf("image %s is not on %s: %s", image, n.name, out)
}

// key identifies the content of the image: the binaries are in directories
// named by what they were built from.
func (img image) key() (string, error) {
	var parts []string
	for path, source := range img.files {
		resolved, err := filepath.EvalSymlinks(source)
		if err != nil {
			return "", err
		}
		parts = append(parts, path+"="+resolved)
	}
	sort.Strings(parts)
	if img.user != "" {
		parts = append(parts, img.user)
	}
	return strings.Join(append(parts, img.name), "\n"), nil
}

// archive writes the image in the format of "docker save", unless the file is
// there already, and returns its path.
func (img image) archive(key string) (string, error) {
	path := filepath.Join(cacheDir(), "images", hashOf(key)+".tar")
	if exists(path) {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	layer, err := tarball.LayerFromOpener(img.layer, tarball.WithCompressionLevel(1))
	if err != nil {
		return "", err
	}
	built, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return "", err
	}
	built, err = mutate.Config(built, v1.Config{
		Entrypoint: img.entrypoint,
		User:       img.user,
		Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	})
	if err != nil {
		return "", err
	}
	file, err := built.ConfigFile()
	if err != nil {
		return "", err
	}
	file.OS, file.Architecture = "linux", runtime.GOARCH
	if built, err = mutate.ConfigFile(built, file); err != nil {
		return "", err
	}
	tag, err := name.NewTag(img.name)
	if err != nil {
		return "", err
	}
	if err := tarball.WriteToFile(path+".unfinished", tag, built); err != nil {
		return "", err
	}
	return path, os.Rename(path+".unfinished", path)
}

// layer is the content of the image as a tar archive.
func (img image) layer() (io.ReadCloser, error) {
	reader, writer := io.Pipe()
	go func() {
		archive := tar.NewWriter(writer)
		err := img.write(archive)
		if err == nil {
			err = archive.Close()
		}
		writer.CloseWithError(err)
	}()
	return reader, nil
}

func (img image) write(archive *tar.Writer) error {
	for _, dir := range []string{"bin/", "etc/", "tmp/", "usr/", "usr/local/", "usr/local/bin/", "vault/", "var/",
		"var/lib/"} {
		mode := int64(0o755)
		if dir == "tmp/" {
			mode = 0o1777
		}
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: mode}); err != nil {
			return err
		}
	}
	files := map[string]string{}
	for path, source := range img.files {
		files[path] = source
	}
	if img.busybox {
		files["/bin/busybox"] = "/bin/busybox"
	}
	for _, path := range sortedKeys(files) {
		if err := addFile(archive, path, files[path]); err != nil {
			return err
		}
	}
	if !img.busybox {
		return nil
	}
	commands, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return err
	}
	for command := range strings.FieldsSeq(string(commands)) {
		if command == "busybox" {
			continue
		}
		err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + command, Linkname: "busybox"})
		if err != nil {
			return err
		}
	}
	return nil
}

func addFile(archive *tar.Writer, path, source string) error {
	file, err := os.Open(source)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(path, "/"), Mode: 0o755, Size: info.Size()}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(archive, file)
	return err
}

//go:embed images/pause/pause.go
var pauseSource []byte

// buildPause compiles the program of the sandbox image.
func buildPause(ctx context.Context) error {
	built := filepath.Join(cacheDir(), "parts", "pause-"+hashOf(string(pauseSource)), "pause")
	if exists(built) {
		return link(built, bin("pause"))
	}
	dir, err := os.MkdirTemp("", "pause-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	source := filepath.Join(dir, "pause.go")
	if err := os.WriteFile(source, bytes.TrimSpace(pauseSource), 0o644); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(built), 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", append(slices.Clone(goBuild), "-ldflags", "-s -w", "-o", built, source)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	cmd.Dir = dir
	if err := runShowing(cmd, "building pause"); err != nil {
		return err
	}
	return link(built, bin("pause"))
}
