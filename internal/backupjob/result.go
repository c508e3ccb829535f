package backupjob

import (
	"encoding/json"
	"fmt"
	"regexp"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backup"
)

var (
	digest = regexp.MustCompile(`^[0-9a-f]{64}$`)
	word   = regexp.MustCompile(`^[A-Z][A-Za-z]{0,63}$`)
)

// resultOf is what the newest pod of a Job that has ended said. Whoever may write the status of
// pods decides what that is, so that nothing of it is believed but what could be so. It is nil when
// no pod has said anything.
func resultOf(job *batchv1.Job, pods []corev1.Pod, now time.Time) (*backup.Result, error) {
	var newest *corev1.ContainerStateTerminated
	for i := range pods {
		if !controlledBy(&pods[i], job) {
			continue
		}
		for j := range pods[i].Status.ContainerStatuses {
			ended := pods[i].Status.ContainerStatuses[j].State.Terminated
			if ended == nil || ended.Message == "" || newest != nil && ended.FinishedAt.Before(&newest.FinishedAt) {
				continue
			}
			newest = ended
		}
	}
	if newest == nil {
		return nil, nil
	}
	return parse(newest.Message, now)
}

// told is what a Job has told of the Vault that a backup is of, beside what is known.
func told(known *v1alpha1.BackedUpVault, v *backup.Description) *v1alpha1.BackedUpVault {
	if v == nil {
		return known
	}
	result := &v1alpha1.BackedUpVault{Version: v.Version, Storage: v.Storage, SealType: v.SealType}
	if uid.MatchString(v.UID) {
		result.UID = types.UID(v.UID)
	}
	if known != nil {
		*result = *known
	}
	if v.Threshold > 0 {
		result.Shares, result.Threshold = int32(v.Shares), int32(v.Threshold)
	}
	return result
}

// uid is what UIDs of Kubernetes consist of.
var uid = regexp.MustCompile(`^[0-9a-f-]{1,64}$`)

func parse(text string, now time.Time) (*backup.Result, error) {
	var result backup.Result
	if err := json.Unmarshal([]byte(text), &result); err != nil {
		return nil, fmt.Errorf("it is not in JSON")
	}
	for _, at := range []*time.Time{result.StoredTime, result.IntactTime, result.RestoredTime} {
		if at != nil && at.Before(time.Unix(0, 0)) {
			return nil, fmt.Errorf("a time of it cannot be")
		}
		if at != nil && at.After(now) { // by the clock of another machine
			*at = now
		}
	}
	switch {
	case result.Size < 0 || result.Revision < 0:
		return nil, fmt.Errorf("a number of it is negative")
	case result.SHA256 != "" && !digest.MatchString(result.SHA256):
		return nil, fmt.Errorf("its digest is not a SHA-256")
	case result.Reason != "" && !word.MatchString(string(result.Reason)):
		return nil, fmt.Errorf("its reason is not a word")
	case result.Vault != nil && !result.Vault.Plausible():
		return nil, fmt.Errorf("it tells of a Vault that cannot be")
	}
	return &result, nil
}
