// Package backup is what a backup of a Vault consists of: the Job that the operator starts
// runs it. It streams the data, and trusts neither the storage nor the store.
package backup

import (
	"slices"
	"time"

	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/vaultversion"
)

// Action is what a Job does.
type Action string

// The actions.
const (
	// Backup copies the data of the Source to the Location, and reads it back.
	Backup Action = "Backup"
	// Restore writes a backup into the Source, after it was checked.
	Restore Action = "Restore"
	// Delete removes a backup. It is not an error that there is none.
	Delete Action = "Delete"
	// Reach tries to connect to the API server for a while, and tells whether that was possible, and when.
	Reach Action = "Reach"
	// Isolation does so until it is not possible any more, or for as long as a NetworkPolicy may need to take effect.
	Isolation Action = "Isolation"
)

// The Tasks of a Reach and of an Isolation, in JSON: the same for all.
const (
	ReachTask     = `{"action":"Reach"}`
	IsolationTask = `{"action":"Isolation"}`
)

// TaskVariable is the environment variable that has the Task, in JSON.
const TaskVariable = "BACKUP_TASK"

// Where the Job mounts the files that it needs.
const (
	// EtcdDirectory has tls.crt, tls.key and ca.crt of a client of etcd.
	EtcdDirectory = "/etc/vault-operator/etcd"
	// VaultDirectory has the ca.crt of Vault.
	VaultDirectory = "/etc/vault-operator/vault"
	// LoginDirectory has jwt, a token of the ServiceAccount for the audience of the Vault,
	// or token, a token of Vault.
	LoginDirectory = "/etc/vault-operator/login"
	// S3Directory has accessKeyID, secretAccessKey and, if there is one, sessionToken.
	// Without these the Job uses its workload identity.
	S3Directory = "/etc/vault-operator/s3"
	// S3CADirectory has the ca.crt of the S3 server, when no public authority signed it.
	S3CADirectory = "/etc/vault-operator/s3-ca"
	// ClaimDirectory is where a PersistentVolumeClaim is mounted.
	ClaimDirectory = "/backups"
	// ScratchDirectory has room for a whole snapshot of etcd. Only a Restore into etcd needs it.
	ScratchDirectory = "/tmp"
	// TerminationLog is where the Job writes its Result, in JSON.
	TerminationLog = "/dev/termination-log"
)

// Task is what one Job does. It has no secrets.
type Task struct {
	// Action is what is done.
	Action Action `json:"action"`
	// Source is the storage that is backed up, or restored into. Not used by Delete.
	Source *Storage `json:"source,omitempty"`
	// Location is where the backup is.
	Location Location `json:"location"`
	// Name of the backup: the object is PREFIX/NAME.snapshot, and what is known of it is in
	// PREFIX/NAME.json, which is written last: without it there is no backup.
	Name string `json:"name"`
	// Vault is what is written into NAME.json beside the result. Of a Restore it is the Vault that is
	// restored into.
	Vault Description `json:"vault"`
	// Want is the digest that Restore expects, SHA-256 in hex. It refuses another.
	Want string `json:"want,omitempty"`
}

// Storage is the storage of a Vault. Exactly one is set.
type Storage struct {
	Etcd *EtcdStorage `json:"etcd,omitempty"`
	Raft *RaftStorage `json:"raft,omitempty"`
}

// EtcdStorage is etcd, by mutual TLS with the files in EtcdDirectory.
type EtcdStorage struct {
	// Endpoints are URLs of members, https://HOST:PORT. The host is the server's name.
	Endpoints []string `json:"endpoints"`
	// Prefix is the path that Vault's keys have in etcd.
	Prefix string `json:"prefix"`
}

// RaftStorage is integrated storage, with the files in VaultDirectory and LoginDirectory.
type RaftStorage struct {
	// Address is the URL of the active node, https://HOST:PORT. For a Restore it is that of a node
	// without data, which needs no login.
	Address string `json:"address"`
	// ServerName is what the certificate has to be valid for; by default it is the host.
	ServerName string `json:"serverName,omitempty"`
	// AuthMount is the path where the JWT auth method is mounted, without auth/.
	AuthMount string `json:"authMount"`
	// Role of the JWT auth method.
	Role string `json:"role"`
}

// Location is where backups are. Either S3 or Directory is set.
type Location struct {
	S3 *S3 `json:"s3,omitempty"`
	// Directory is a mounted volume.
	Directory string `json:"directory,omitempty"`
	// Prefix of the names of objects, or a directory in Directory.
	Prefix string `json:"prefix,omitempty"`
}

// S3 is a bucket.
type S3 struct {
	// Endpoint is the URL of the server, https://HOST:PORT.
	Endpoint string `json:"endpoint"`
	Region   string `json:"region,omitempty"`
	Bucket   string `json:"bucket"`
	// PathStyle puts the name of the bucket in the path, and not in the name of the host.
	PathStyle bool `json:"pathStyle,omitempty"`
	// ServerSideEncryption is AES256, aws:kms or, by default, what the bucket does.
	ServerSideEncryption string `json:"serverSideEncryption,omitempty"`
	// KMSKeyID is the key of aws:kms.
	KMSKeyID string `json:"kmsKeyID,omitempty"`
}

// Description tells of the Vault that was backed up what whoever restores it has to know.
type Description struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	Version   string `json:"version,omitempty"`
	SealType  string `json:"sealType,omitempty"`
	// Storage is etcd or raft.
	Storage   string `json:"storage,omitempty"`
	Shares    int    `json:"shares,omitempty"`
	Threshold int    `json:"threshold,omitempty"`
	ClusterID string `json:"clusterID,omitempty"`
}

const (
	// maxShares is how many shares a key can have, by Shamir's algorithm as Vault has it.
	maxShares = 255
	// maxVersion is how long the version of Vault may be.
	maxVersion = 64
	// maxName is how long a name may be, and maxID an identifier.
	maxName, maxID = 253, 64
)

// Plausible says that what is told of a Vault could be so. A store, or who may write the status of pods, can tell
// anything.
func (d *Description) Plausible() bool {
	return (d.Version == "" || len(d.Version) <= maxVersion && vaultversion.Valid(d.Version)) &&
		(d.SealType == "" || probe.SealType.MatchString(d.SealType)) &&
		slices.Contains([]string{"", formatEtcd, formatRaft}, d.Storage) &&
		0 <= d.Threshold && d.Threshold <= d.Shares && d.Shares <= maxShares &&
		len(d.Namespace) <= maxName && len(d.Name) <= maxName && len(d.UID) <= maxID && len(d.ClusterID) <= maxID
}

// Result is what a Job says in its termination message, below 3 KB.
type Result struct {
	// Size in bytes.
	Size int64 `json:"size,omitempty"`
	// SHA256 in hex.
	SHA256 string `json:"sha256,omitempty"`
	// Revision of etcd, or the index of raft's snapshot.
	Revision int64 `json:"revision,omitempty"`

	// The levels that this Job has proven.

	// StoredTime is when the backup was read back as it was sent.
	StoredTime *time.Time `json:"storedTime,omitempty"`
	// IntactTime is when the archive's own sums were found to match.
	IntactTime *time.Time `json:"intactTime,omitempty"`
	// RestoredTime is when a storage had taken the backup.
	RestoredTime *time.Time `json:"restoredTime,omitempty"`

	// Reached says whether a Reach or an Isolation could connect to the API server, at last. All tries from Since to Until
	// had this result.
	Reached *bool      `json:"reached,omitempty"`
	Since   *time.Time `json:"since,omitempty"`
	Until   *time.Time `json:"until,omitempty"`
	// Late says that an Isolation could connect before it could not any more.
	Late bool `json:"late,omitempty"`

	// Vault that the backup is of, as far as is known.
	Vault *Description `json:"vault,omitempty"`

	// Reason is set when the Job failed.
	Reason Reason `json:"reason,omitempty"`
	// Message tells an administrator what failed and what to do, or what stays after a Delete.
	Message string `json:"message,omitempty"`
}

// Reason is a word for why a Job failed.
type Reason string

// The reasons.
const (
	// Unreachable is a server that did not answer, or whose certificate is not signed by the CA.
	Unreachable Reason = "Unreachable"
	// Denied is a server that refused the credentials, or what was to be done with them.
	Denied Reason = "Denied"
	// BucketMissing is a bucket, or a directory, that is not there.
	BucketMissing Reason = "BucketMissing"
	// NoSpace is a store, or a storage, that is full.
	NoSpace Reason = "NoSpace"
	// DigestMismatch is a backup that is not what was sent, or not what was wanted.
	DigestMismatch Reason = "DigestMismatch"
	// Incomplete is a snapshot that ends too early, or whose own sums do not match.
	Incomplete Reason = "Incomplete"
	// NotFound is a backup that is not there.
	NotFound Reason = "NotFound"
	// Refused is what is not done to protect data: the task tells of another Vault, or the
	// storage to restore into is not empty.
	Refused Reason = "Refused"
	// Failed is anything else.
	Failed Reason = "Failed"
)
