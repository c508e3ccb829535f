package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"strings"
	"syscall"
	"unicode"

	"github.com/minio/minio-go/v7"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vault-operator/vault-operator/internal/vaultclient"
)

// maxMessage is how many bytes of a message are told. A termination message has room for more.
const maxMessage = 1 << 10

// failure is an error with a reason and a message for people.
type failure struct {
	reason  Reason
	message string
	err     error
}

func fail(reason Reason, err error, format string, args ...any) error {
	return &failure{reason: reason, message: fmt.Sprintf(format, args...), err: err}
}

func (f *failure) Error() string {
	if f.err == nil {
		return f.message
	}
	return f.message + ": " + short(f.err)
}

func (f *failure) Unwrap() error { return f.err }

// explain sets what a Result says of an error.
func (r *Result) explain(err error) {
	r.Reason = reasonOf(err)
	r.Message = printable(short(err))
}

// reasonOf is the reason of the innermost error that has one: what went wrong first.
func reasonOf(err error) Reason {
	var f *failure
	if !errors.As(err, &f) {
		return classify(err)
	}
	if inner := reasonOf(f.err); inner != Failed {
		return inner
	}
	if f.reason != "" {
		return f.reason
	}
	return Failed
}

// classify knows the errors of others.
func classify(err error) Reason {
	switch {
	case err == nil:
		return Failed
	case errors.Is(err, errStalled), errors.Is(err, context.DeadlineExceeded):
		return Unreachable
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, rpctypes.ErrNoSpace):
		return NoSpace
	case errors.Is(err, fs.ErrPermission):
		return Denied
	}
	var response minio.ErrorResponse
	if errors.As(err, &response) {
		return classifyS3(response)
	}
	switch code := vaultclient.StatusOf(err); {
	case code == 403:
		return Denied
	case code/100 == 3, code >= 500:
		return Unreachable
	}
	code := status.Code(err)
	var etcd rpctypes.EtcdError
	if errors.As(err, &etcd) {
		code = etcd.Code()
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded:
		return Unreachable
	case codes.PermissionDenied, codes.Unauthenticated:
		return Denied
	}
	var request *url.Error
	var connection *net.OpError
	if errors.As(err, &request) || errors.As(err, &connection) {
		return Unreachable
	}
	return Failed
}

// https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
func classifyS3(response minio.ErrorResponse) Reason {
	switch {
	case response.Code == minio.NoSuchBucket:
		return BucketMissing
	case response.Code == minio.NoSuchKey, response.Code == "NoSuchVersion":
		return NotFound
	case response.StatusCode == 507, strings.Contains(response.Code, "Quota"),
		strings.Contains(response.Code, "StorageFull"),
		response.Code == "InsufficientStorage", response.Code == "EntityTooLarge":
		return NoSpace
	case response.StatusCode == 401, response.StatusCode == 403:
		return Denied
	case response.StatusCode >= 500, response.Code == "SlowDown":
		return Unreachable
	}
	return Failed
}

// short is the text of an error. Of a response only the code is told: servers may put into the
// rest what they were sent.
func short(err error) string {
	var f *failure
	if errors.As(err, &f) {
		if f.err == nil {
			return f.message
		}
		return f.message + ": " + short(f.err)
	}
	var s3 minio.ErrorResponse
	if errors.As(err, &s3) {
		return fmt.Sprintf("the S3 server responded %s (HTTP status %d)", word(s3.Code), s3.StatusCode)
	}
	if reasons := vaultclient.ReasonsOf(err); len(reasons) > 0 {
		return err.Error() + ": " + strings.Join(reasons, "; ")
	}
	var request *url.Error
	if errors.As(err, &request) {
		return request.Err.Error()
	}
	return err.Error()
}

// word is a text as long as it is one word.
func word(text string) string {
	for _, r := range text {
		if r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '.' {
			return "something"
		}
	}
	if text == "" || len(text) > 64 {
		return "something"
	}
	return text
}

// printable is the beginning of a text, in one line.
func printable(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "")
	}
	return text
}
