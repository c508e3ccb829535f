package storage

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// causeFor is how long what the events of an object said is taken for true.
	causeFor = 10 * time.Second
	// repeated is how old an event may be that still counts.
	repeated = 20 * time.Minute
	// maxCauses bounds what is kept of them; maxEvents how many are read at once.
	maxCauses, maxEvents = 1000, 100
	// maxCause is the length of a message that is passed on.
	maxCause = 300
)

// Causes reads from events why a pod of etcd is not made, or a claim of etcd or of a Vault
// pod is not bound: nothing else says so. Many may write events, so they are shown and
// never acted on.
type Causes struct {
	// APIReader reads events, which are not cached.
	APIReader client.Reader
	Clock     clock.PassiveClock

	mu    sync.Mutex
	known map[types.UID]cause
}

type cause struct {
	messages []string
	read     time.Time
}

// Of returns the messages by which Kubernetes says what has failed about an object,
// the newest first.
func (c *Causes) Of(ctx context.Context, namespace string, uid types.UID) ([]string, error) {
	if messages, ok := c.recent(uid); ok {
		return messages, nil
	}
	var list corev1.EventList
	err := c.APIReader.List(ctx, &list, client.InNamespace(namespace), client.Limit(maxEvents),
		client.MatchingFields{"involvedObject.uid": string(uid)})
	if err != nil {
		return nil, fmt.Errorf("reading events: %w", err)
	}
	messages := failures(list.Items, c.Clock.Now())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) > maxCauses {
		c.known = map[types.UID]cause{}
	}
	c.known[uid] = cause{messages, c.Clock.Now()}
	return messages, nil
}

func (c *Causes) recent(uid types.UID) ([]string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, ok := c.known[uid]
	return known.messages, ok && c.Clock.Since(known.read) < causeFor
}

// failures are the messages of events that tell what still fails: the controllers
// repeat them every quarter of an hour at the latest. That of an update which met
// another is none.
func failures(events []corev1.Event, now time.Time) []string {
	slices.SortStableFunc(events, func(a, b corev1.Event) int { return lastSeen(&b).Compare(lastSeen(&a)) })
	var messages []string
	for i := range events {
		event := &events[i]
		// FailedBinding is no warning, and says that no class is set.
		failed := event.Type == corev1.EventTypeWarning && event.Reason != "FailedUpdate" || event.Reason == "FailedBinding"
		if failed && now.Sub(lastSeen(event)) < repeated {
			messages = append(messages, shorten(event.Message))
		}
	}
	return messages
}

func lastSeen(event *corev1.Event) time.Time {
	if event.LastTimestamp.IsZero() {
		return event.EventTime.Time
	}
	return event.LastTimestamp.Time
}

// classNotFound is how the volume controller says that there is no such class.
var classNotFound = regexp.MustCompile(`storageclass\.storage\.k8s\.io "([^"]*)" not found`)

func shorten(message string) string {
	message = classNotFound.ReplaceAllString(strings.TrimSpace(message), "StorageClass $1 not found")
	if len(message) <= maxCause {
		return message
	}
	cut := maxCause
	for cut > 0 && !utf8.RuneStart(message[cut]) {
		cut--
	}
	return message[:cut] + "…"
}
