package helm

import (
	"maps"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
)

// dependentChanged passes what can make a rendered object differ from its
// manifest: its deletion, and a change of anything but its status.
func dependentChanged() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
		DeleteFunc:  func(event.DeleteEvent) bool { return true },
		UpdateFunc: func(e event.UpdateEvent) bool {
			if !maps.Equal(e.ObjectOld.GetLabels(), e.ObjectNew.GetLabels()) {
				return true
			}
			if e.ObjectNew.GetGeneration() != 0 {
				return e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration()
			}
			// Kinds without a generation have no status that others write.
			return changed(e.ObjectOld, e.ObjectNew)
		},
	}
}

func changed(before, after client.Object) bool {
	return before.GetResourceVersion() != after.GetResourceVersion()
}
