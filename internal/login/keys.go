package login

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// keptFor is for how long a key is kept that the API server does not show any more. While keys
// are rotated replicas of the API server show different ones.
const keptFor = time.Hour

// keyring is which public keys the API server has shown, and when last.
type keyring struct {
	mu sync.Mutex
	// since is when the API server was asked first, and read when it was last.
	since, read time.Time
	seen        map[string]time.Time
}

// age is how old the newest answer of the API server is.
func (k *keyring) age(now time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return now.Sub(k.read)
}

// observe notes what the API server shows.
func (k *keyring) observe(keys []string, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seen == nil {
		k.seen, k.since = map[string]time.Time{}, now
	}
	k.read = now
	for _, key := range keys {
		k.seen[key] = now
	}
	maps.DeleteFunc(k.seen, func(_ string, last time.Time) bool { return now.Sub(last) > keptFor })
}

// current are the keys that the API server has shown, in their order.
func (k *keyring) current() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(maps.Keys(k.seen))
}

// wanted are the keys that a Vault should have, by those that it has: whatever is new, and what
// was not missing for long.
func (k *keyring) wanted(configured []string, now time.Time) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	keys := maps.Clone(k.seen)
	if now.Sub(k.since) <= keptFor {
		for _, key := range configured {
			keys[key] = now
		}
	}
	return slices.Sorted(maps.Keys(keys))
}
