package backup

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/encrypt"
)

const (
	// partSize is of what is uploaded at once. S3 takes 10,000 of them: 156 GiB.
	partSize = 16 << 20
	// uploads is how many parts are in memory.
	uploads = 2
	// tries is how often a request is made that the server did not serve.
	tries = 5
	// ownerKey is the metadata that says which Vault an object is of.
	ownerKey = "Vault-Uid"
	// cleanTimeout is how long cleaning up may take after a failure.
	cleanTimeout = time.Minute
)

// s3Store is a bucket.
type s3Store struct {
	client *minio.Client
	s3     *S3
	prefix string
}

func newS3Store(s3 *S3, prefix string, files *Files) (*s3Store, error) {
	endpoint, err := url.Parse(s3.Endpoint)
	if err != nil || endpoint.Host == "" || strings.Trim(endpoint.Path, "/") != "" {
		return nil, fail(Failed, nil, "%q is not the URL of an S3 server", printable(s3.Endpoint))
	}
	dial := files.dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dial,
		TLSHandshakeTimeout:   10 * time.Second,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		ResponseHeaderTimeout: stallAfter,
		DisableCompression:    true,
		MaxIdleConnsPerHost:   uploads,
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
	}
	ca, err := os.ReadFile(filepath.Join(files.S3CA, "ca.crt"))
	if err == nil {
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(ca) {
			return nil, fail(Failed, nil, "The CA of the S3 server is not a certificate in PEM")
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	identity, err := s3Credentials(files.S3)
	if err != nil {
		return nil, err
	}
	lookup := minio.BucketLookupDNS
	if s3.PathStyle {
		lookup = minio.BucketLookupPath
	}
	client, err := minio.New(endpoint.Host, &minio.Options{
		Creds: identity, Secure: endpoint.Scheme == "https", Transport: transport, Region: s3.Region,
		BucketLookup: lookup, MaxRetries: tries,
	})
	if err != nil {
		return nil, err
	}
	client.SetAppInfo("vault-operator", "backup")
	return &s3Store{client: client, s3: s3, prefix: prefix}, nil
}

// s3Credentials are those of the Secret, or those that the cloud gives to the pod.
func s3Credentials(dir string) (*credentials.Credentials, error) {
	id, err := readSecret(dir, "accessKeyID")
	if errors.Is(err, fs.ErrNotExist) {
		return credentials.NewIAM(""), nil
	}
	if err != nil {
		return nil, err
	}
	key, err := readSecret(dir, "secretAccessKey")
	if err != nil {
		return nil, fail(Denied, err, "The Secret with the credentials of S3 has no secretAccessKey")
	}
	token, err := readSecret(dir, "sessionToken")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return credentials.NewStaticV4(id, key, token), nil
}

// readSecret reads a file. Editors and pipes like to end it with a newline.
func readSecret(dir, name string) (string, error) {
	content, err := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(content)), err
}

// s3Object is one of an s3Store.
type s3Object struct {
	*s3Store
	name    string
	version string
	whose   string
}

func (s *s3Store) path(name string) string { return strings.TrimPrefix(path.Join(s.prefix, name), "/") }

func (s *s3Store) options(owner string) (minio.PutObjectOptions, error) {
	options := minio.PutObjectOptions{
		ContentType: "application/octet-stream", PartSize: partSize, NumThreads: uploads, ConcurrentStreamParts: true,
		// A bucket with object lock wants a sum of what it is sent, and every server knows this one.
		SendContentMd5: true,
		UserMetadata:   map[string]string{ownerKey: owner},
	}
	switch s.s3.ServerSideEncryption {
	case "":
	case "AES256":
		options.ServerSideEncryption = encrypt.NewSSE()
	case "aws:kms":
		var err error
		if options.ServerSideEncryption, err = encrypt.NewSSEKMS(s.s3.KMSKeyID, nil); err != nil {
			return options, err
		}
	default:
		return options, fail(Failed, nil, "The encryption %q is not known", printable(s.s3.ServerSideEncryption))
	}
	return options, nil
}

func (s *s3Store) put(ctx context.Context, name, owner string, r io.Reader) (object, error) {
	options, err := s.options(owner)
	if err != nil {
		return nil, err
	}
	if err := s.mine(ctx, name, owner); err != nil {
		return nil, err
	}
	if sent, is := r.(*reading); is {
		options.Progress = progress{sent}
	}
	// Only of a reader of which nothing else is known are the parts streamed.
	info, err := s.client.PutObject(ctx, s.s3.Bucket, s.path(name), struct{ io.Reader }{r}, -1, options)
	stored := &s3Object{s3Store: s, name: name, version: versionOf(info.VersionID), whose: owner}
	if err == nil {
		return stored, nil
	}
	// The upload may have been completed although its response was lost.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	return nil, fail("", errors.Join(err, ignoreNotFound(s.clean(ctx, name, owner))), "The backup cannot be uploaded")
}

// progress is told of what is uploaded: a slow server takes long for the parts that were read before.
type progress struct{ of *reading }

// Read is called with what was sent.
func (p progress) Read(sent []byte) (int, error) {
	p.of.moved()
	return len(sent), nil
}

// mine refuses to replace an object of another owner.
func (s *s3Store) mine(ctx context.Context, name, owner string) error {
	there, err := s.find(ctx, name)
	if err != nil {
		return ignoreNotFound(err)
	}
	if there.owner() != owner {
		return fail(Refused, nil, "The bucket has a %s of something else", name)
	}
	return nil
}

func (s *s3Store) putSmall(ctx context.Context, name, owner string, content []byte) error {
	options, err := s.options(owner)
	if err != nil {
		return err
	}
	options.ContentType = "application/json"
	_, err = s.client.PutObject(ctx, s.s3.Bucket, s.path(name), bytes.NewReader(content), int64(len(content)), options)
	return err
}

func (s *s3Store) find(ctx context.Context, name string) (object, error) {
	info, err := s.client.StatObject(ctx, s.s3.Bucket, s.path(name), minio.StatObjectOptions{})
	if err != nil {
		return nil, s.explain(ctx, err, name)
	}
	return &s3Object{
		s3Store: s, name: name, version: versionOf(info.VersionID), whose: info.UserMetadata[ownerKey],
	}, nil
}

// versionOf is a version, as long as it is one: a bucket whose versioning is suspended says null.
func versionOf(id string) string {
	if id == "null" {
		return ""
	}
	return id
}

// explain tells a missing bucket from a missing object: the response to HEAD has no text.
func (s *s3Store) explain(ctx context.Context, err error, name string) error {
	if !isNotFound(err) {
		return err
	}
	if exists, failed := s.client.BucketExists(ctx, s.s3.Bucket); failed == nil && !exists {
		return fail(BucketMissing, nil, "There is no bucket %s", printable(s.s3.Bucket))
	}
	return fail(NotFound, nil, "The bucket has no %s", name)
}

// clean removes uploads that were not completed, and a snapshot that nothing tells of.
func (s *s3Store) clean(ctx context.Context, name, owner string) error {
	err := s.client.RemoveIncompleteUpload(ctx, s.s3.Bucket, s.path(name))
	if reason := reasonOf(err); reason == Denied || reason == NotFound {
		// Nobody finds such an upload. A lifecycle rule of the bucket may remove it.
		err = nil
	}
	there, missing := s.find(ctx, name)
	if missing == nil && there.owner() == owner {
		return errors.Join(err, there.remove(ctx))
	}
	return err
}

func ignoreNotFound(err error) error {
	if isNotFound(err) {
		return nil
	}
	return err
}

func (o *s3Object) get(ctx context.Context, set func(*minio.GetObjectOptions) error) (io.ReadCloser, error) {
	options := minio.GetObjectOptions{VersionID: o.version}
	if set != nil {
		if err := set(&options); err != nil {
			return nil, err
		}
	}
	body, _, _, err := minio.Core{Client: o.client}.GetObject(ctx, o.s3.Bucket, o.path(o.name), options)
	if err != nil {
		return nil, o.explain(ctx, err, o.name)
	}
	return body, nil
}

func (o *s3Object) open(ctx context.Context) (io.ReadCloser, error) { return o.get(ctx, nil) }

func (o *s3Object) at(ctx context.Context) (io.ReaderAt, io.Closer, error) {
	return s3Range{o, ctx}, io.NopCloser(nil), nil
}

// s3Range reads parts of an object by a request each.
type s3Range struct {
	*s3Object
	ctx context.Context //nolint:containedctx // io.ReaderAt has none
}

func (r s3Range) ReadAt(p []byte, offset int64) (int, error) {
	body, err := r.get(r.ctx, func(options *minio.GetObjectOptions) error {
		return options.SetRange(offset, offset+int64(len(p))-1)
	})
	if err != nil {
		return 0, err
	}
	defer func() { _ = body.Close() }()
	return io.ReadFull(body, p)
}

func (o *s3Object) owner() string { return o.whose }

func (o *s3Object) commit() error { return nil }

func (o *s3Object) remove(ctx context.Context) error {
	err := o.client.RemoveObject(ctx, o.s3.Bucket, o.path(o.name), minio.RemoveObjectOptions{VersionID: o.version})
	if err == nil || o.version == "" {
		return err
	}
	// The bucket keeps the version: then it is marked as deleted.
	_, err = o.hide(ctx)
	return err
}

func (o *s3Object) hide(ctx context.Context) (string, error) {
	err := o.client.RemoveObject(ctx, o.s3.Bucket, o.path(o.name), minio.RemoveObjectOptions{})
	if err != nil || o.version == "" {
		return "", err
	}
	return fmt.Sprintf("the bucket keeps version %s of %s", printable(o.version), o.path(o.name)), nil
}
