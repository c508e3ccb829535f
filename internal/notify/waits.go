package notify

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// Waits is what the rollout of each Vault, or of its etcd, waits for. Only the replica that leads
// knows. The zero value knows nothing; of a nil one nothing is kept.
type Waits struct {
	mu   sync.Mutex
	why  map[types.NamespacedName]string
	news Notifier
}

// Note keeps what the rollout of a Vault waits for; an empty text is nothing.
func (w *Waits) Note(vault types.NamespacedName, why string) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.why[vault] == why {
		return
	}
	if why == "" {
		delete(w.why, vault)
	} else {
		if w.why == nil {
			w.why = map[types.NamespacedName]string{}
		}
		w.why[vault] = why
	}
	w.news.Notify(vault)
}

// Of says what the rollout of a Vault waits for, or nothing.
func (w *Waits) Of(vault types.NamespacedName) string {
	if w == nil {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.why[vault]
}

// Source makes a controller reconcile a Vault when its rollout waits for something else.
func (w *Waits) Source() source.Source { return w.news.Source(0) }
