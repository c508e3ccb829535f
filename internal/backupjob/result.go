package backupjob

import (
	"encoding/json"
	"fmt"
	"regexp"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/vault-operator/vault-operator/internal/backup"
)

// skew is by how much the clock of the machine that a Job ran on may be ahead.
const skew = 5 * time.Minute

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

func parse(text string, now time.Time) (*backup.Result, error) {
	var result backup.Result
	if err := json.Unmarshal([]byte(text), &result); err != nil {
		return nil, fmt.Errorf("it is not in JSON")
	}
	for _, at := range []*time.Time{result.StoredTime, result.IntactTime, result.RestoredTime} {
		if at != nil && (at.After(now.Add(skew)) || at.Before(time.Unix(0, 0))) {
			return nil, fmt.Errorf("a time of it is not in the past")
		}
	}
	switch {
	case result.Size < 0 || result.Revision < 0:
		return nil, fmt.Errorf("a number of it is negative")
	case result.SHA256 != "" && !digest.MatchString(result.SHA256):
		return nil, fmt.Errorf("its digest is not a SHA-256")
	case result.Reason != "" && !word.MatchString(string(result.Reason)):
		return nil, fmt.Errorf("its reason is not a word")
	}
	return &result, nil
}
