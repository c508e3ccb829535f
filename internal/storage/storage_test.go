package storage

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/problem"
)

var now = time.Date(2025, 11, 24, 12, 0, 0, 0, time.UTC)

func ptr[T any](value T) *T { return &value }

func newVault(members int32) *v1alpha1.Vault {
	return &v1alpha1.Vault{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", UID: "vault-uid", Generation: 1},
		Spec: v1alpha1.VaultSpec{Storage: v1alpha1.StorageSpec{Etcd: &v1alpha1.EtcdStorage{
			Nodes: &members, Version: "3.6.16", VolumeSize: ptr(resource.MustParse("2Gi")),
		}}},
	}
}

// claim is of a member: "bound" or "unbound", of a size and a class.
func claim(vault *v1alpha1.Vault, ordinal int, phase, size, class string) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: vault.Namespace, Name: vault.EtcdClaimName(ordinal), Labels: vault.EtcdLabels(),
			UID: types.UID(fmt.Sprintf("claim-%d", ordinal)), CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)),
		},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class,
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
			},
		},
	}
	if phase == "bound" {
		c.Spec.VolumeName, c.Status.Phase = fmt.Sprintf("pv-%d", ordinal), corev1.ClaimBound
	}
	return c
}

func newSet(vault *v1alpha1.Vault, class *string) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: vault.Namespace, Name: vault.EtcdName(), UID: "set-uid", Generation: 1, Labels: vault.EtcdLabels(),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(vault, v1alpha1.GroupVersion.WithKind("Vault"))},
		},
		Spec: appsv1.StatefulSetSpec{
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{
				{Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: class}},
			},
		},
		Status: appsv1.StatefulSetStatus{
			ObservedGeneration: 1, CurrentRevision: "old", UpdateRevision: "old",
		},
	}
}

func pod(vault *v1alpha1.Vault, ordinal int, ready bool, revision string) corev1.Pod {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	labels := vault.EtcdLabels()
	labels[appsv1.StatefulSetRevisionLabel] = revision
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: vault.Namespace, Name: vault.EtcdMemberName(ordinal), Labels: labels,
			CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)),
		},
		Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}},
	}
}

func stateOf(vault *v1alpha1.Vault, set *appsv1.StatefulSet, claims ...*corev1.PersistentVolumeClaim) *State {
	s := &State{Vault: vault, Set: set, Claims: map[int]*corev1.PersistentVolumeClaim{}}
	for _, c := range claims {
		var ordinal int
		if _, err := fmt.Sscanf(strings.TrimPrefix(c.Name, "data-"+vault.EtcdName()+"-"), "%d", &ordinal); err != nil {
			panic(err)
		}
		s.Claims[ordinal] = c
	}
	return s
}

// What an earlier Vault has left has to fit, before anything starts.
func TestKeptVolumes(t *testing.T) {
	type kept map[int]string // phase, size and class by ordinal
	three := kept{0: "bound 2Gi fast", 1: "bound 2Gi fast", 2: "bound 2Gi fast"}
	for name, tt := range map[string]struct {
		members int32
		class   *string
		kept    kept
		// refused is in the message; empty is none.
		refused []string
	}{
		"nothing is kept":  {members: 3},
		"the same":         {members: 3, kept: three},
		"the same class":   {members: 3, class: ptr("fast"), kept: three},
		"one is lost":      {members: 3, kept: kept{0: "bound 2Gi fast", 2: "bound 2Gi fast"}},
		"the last is lost": {members: 3, kept: kept{0: "bound 2Gi fast", 1: "bound 2Gi fast"}},
		"3 members on the volume of 1": {
			members: 3, kept: kept{0: "bound 2Gi fast"},
			refused: []string{"data-example-etcd-0", "an etcd of 1 members", "nodes to 1 instead of 3"},
		},
		"1 member on the volumes of 3": {
			members: 1, kept: three,
			refused: []string{"data-example-etcd-0, data-example-etcd-1, data-example-etcd-2", "nodes to 3 instead of 1"},
		},
		"5 members on those of 3": {members: 5, kept: three, refused: []string{"nodes to 3 instead of 5"}},
		"3 members on those of 5": {
			members: 3, kept: kept{0: "bound 2Gi fast", 1: "bound 2Gi fast", 3: "bound 2Gi fast"},
			refused: []string{"nodes to 5 instead of 3"},
		},
		"1 of 3 is left": {
			members: 3, kept: kept{1: "bound 2Gi fast"}, refused: []string{"1 of 3 etcd members, which is no quorum"},
		},
		"one that was never bound": {members: 3, kept: kept{0: "unbound 2Gi fast"}},
		"unbound beside bound":     {members: 1, kept: kept{0: "bound 2Gi fast", 1: "unbound 2Gi fast"}},
		"smaller volumes": {
			members: 1, kept: kept{0: "bound 1Gi fast"},
			refused: []string{"data-example-etcd-0 is of 1Gi", "volumeSize to 1Gi instead of 2Gi"},
		},
		"larger volumes":               {members: 1, kept: kept{0: "bound 8Gi fast"}, refused: []string{"volumeSize to 8Gi"}},
		"the same size in other words": {members: 1, kept: kept{0: "bound 2048Mi fast"}},
		"one was made larger": {
			members: 3, kept: kept{0: "bound 2Gi fast", 1: "bound 8Gi fast", 2: "bound 2Gi fast"},
		},
		"another class": {
			members: 1, class: ptr("slow"), kept: kept{0: "bound 2Gi fast"},
			refused: []string{"data-example-etcd-0", `storageClassName to "fast" instead of "slow"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			vault := newVault(tt.members)
			vault.Spec.Storage.Etcd.StorageClassName = (*v1alpha1.ObjectName)(tt.class)
			s := stateOf(vault, nil)
			for ordinal, text := range tt.kept {
				fields := strings.Fields(text)
				s.Claims[ordinal] = claim(vault, ordinal, fields[0], fields[1], fields[2])
			}
			err := s.Refusal()
			var refusal *problem.Error
			if errors.As(err, &refusal) != (tt.refused != nil) || refusal != nil &&
				refusal.Reason != v1alpha1.ReasonVolumesMismatch {
				t.Fatalf("refused: %v", err)
			}
			for _, part := range tt.refused {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is not in %q", part, err)
				}
			}
			// A StatefulSet that exists has its claims already.
			s.Set = newSet(vault, tt.class)
			if err := s.Refusal(); err != nil {
				t.Errorf("refused while the StatefulSet exists: %v", err)
			}
		})
	}
}

// A StorageClass can be corrected while no volume is bound.
func TestCorrectedClass(t *testing.T) {
	vault := newVault(1)
	vault.Spec.Storage.Etcd.StorageClassName = ptr(v1alpha1.ObjectName("fast"))
	for name, tt := range map[string]struct {
		template                  *string
		claims                    []*corev1.PersistentVolumeClaim
		known                     bool
		refused, replaced, waited bool
	}{
		"as it is": {
			template: ptr("fast"), claims: []*corev1.PersistentVolumeClaim{claim(vault, 0, "bound", "2Gi", "fast")},
		},
		"a typo": {
			template: ptr("fats"), claims: []*corev1.PersistentVolumeClaim{claim(vault, 0, "unbound", "2Gi", "fats")},
			replaced: true, waited: true,
		},
		"a typo without claims": {template: ptr("fats"), replaced: true, waited: true},
		"no class before": {
			claims: []*corev1.PersistentVolumeClaim{claim(vault, 0, "unbound", "2Gi", "")}, replaced: true, waited: true,
		},
		"bound volumes": {
			template: ptr("slow"), claims: []*corev1.PersistentVolumeClaim{claim(vault, 0, "bound", "2Gi", "slow")},
			refused: true,
		},
		"members that were ready": {template: ptr("slow"), known: true, refused: true},
		"an unbound claim of old": {
			template: ptr("fast"), claims: []*corev1.PersistentVolumeClaim{claim(vault, 0, "unbound", "2Gi", "fats")},
			replaced: true, waited: true,
		},
		"an unbound claim of other size": {
			template: ptr("fast"), claims: []*corev1.PersistentVolumeClaim{claim(vault, 0, "unbound", "1Gi", "fast")},
			replaced: true, waited: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			vault := vault.DeepCopy()
			if tt.known {
				vault.Status.Storage = &v1alpha1.StorageStatus{
					Volumes: []v1alpha1.StorageVolume{{Claim: "data-example-etcd-0", UID: "x"}},
				}
			}
			s := stateOf(vault, newSet(vault, tt.template), tt.claims...)
			if err := s.Refusal(); (err != nil) != tt.refused {
				t.Errorf("refused: %v", err)
			}
			if got := s.mustReplace(); got != tt.replaced {
				t.Errorf("replaced: %v", got)
			}
			if err := s.pending(); (err != nil) != tt.waited {
				t.Errorf("waited: %v", err)
			}
		})
	}
}

// So can the number of members and the size, and none of them when volumes are bound, but for a
// larger size (TestGrowing).
func TestChangesOfALivingEtcd(t *testing.T) {
	for name, tt := range map[string]struct {
		change   func(*v1alpha1.EtcdStorage)
		mentions string
		replaced bool
	}{
		"nothing": {change: func(*v1alpha1.EtcdStorage) {}},
		"members": {
			change: func(e *v1alpha1.EtcdStorage) { e.Nodes = ptr(int32(3)) },
			mentions: "spec.storage.etcd.nodes cannot be changed: " +
				"the volume claims data-example-etcd-0 are bound; set it back to 1",
		},
		"a smaller size": {
			change: func(e *v1alpha1.EtcdStorage) { e.VolumeSize = ptr(resource.MustParse("1Gi")) },
			mentions: "volumeSize cannot be made smaller: " +
				"the volume claims data-example-etcd-0 are bound; set it back to 2Gi",
			replaced: true,
		},
		"class": {
			change:   func(e *v1alpha1.EtcdStorage) { e.StorageClassName = ptr(v1alpha1.ObjectName("slow")) },
			mentions: `set it back to "fast"`, replaced: true,
		},
	} {
		for _, phase := range []string{"bound", "unbound"} {
			vault := newVault(1)
			vault.Spec.Storage.Etcd.StorageClassName = ptr(v1alpha1.ObjectName("fast"))
			set := newSet(vault, ptr("fast"))
			set.Spec.Replicas = ptr(int32(1))
			set.Spec.VolumeClaimTemplates[0].Spec.Resources.Requests = corev1.ResourceList{
				corev1.ResourceStorage: resource.MustParse("2Gi"),
			}
			tt.change(vault.Spec.Storage.Etcd)
			s := stateOf(vault, set, claim(vault, 0, phase, "2Gi", "fast"))
			err := s.Refusal()
			if refused := err != nil; refused != (phase == "bound" && tt.mentions != "") || refused &&
				!strings.Contains(err.Error(), tt.mentions) {
				t.Errorf("%s of %s volumes: %v", name, phase, err)
			}
			if got := s.mustReplace(); got != (phase == "unbound" && tt.replaced) {
				t.Errorf("%s of %s volumes: replaced: %v", name, phase, got)
			}
		}
	}
}

// Claims that go with an earlier StatefulSet are not to be used.
func TestClaimsThatAreGoing(t *testing.T) {
	vault := newVault(1)
	for name, change := range map[string]func(*corev1.PersistentVolumeClaim){
		"deleted": func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = ptr(metav1.Now()) },
		"owned": func(c *corev1.PersistentVolumeClaim) {
			c.OwnerReferences = []metav1.OwnerReference{{Kind: "StatefulSet", Name: "example-etcd", UID: "earlier"}}
		},
	} {
		c := claim(vault, 0, "bound", "2Gi", "fast")
		if err := stateOf(vault, nil, c).pending(); err != nil {
			t.Errorf("a claim that stays: %v", err)
		}
		change(c)
		if err := stateOf(vault, nil, c).pending(); err == nil || !strings.Contains(err.Error(), c.Name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An etcd whose version is not named keeps its own, whatever the operator's default is.
func TestVersionIsKept(t *testing.T) {
	for name, tt := range map[string]struct {
		named, known, annotated, image, want string
		unready                              bool
	}{
		"new":                        {want: v1alpha1.DefaultEtcdVersion},
		"named":                      {named: "3.7.1", known: "3.7.0", annotated: "3.7.0", want: "3.7.1"},
		"ready":                      {known: "3.6.1", annotated: "3.6.1", want: "3.6.1"},
		"ready, and made anew":       {known: "3.6.1", want: "3.6.1"},
		"another has never worked":   {known: "3.6.1", annotated: "3.6.99", want: "3.6.1"},
		"ready, and not told yet":    {annotated: "3.6.1", want: "3.6.1"},
		"never ready":                {annotated: "3.6.99", unready: true, want: v1alpha1.DefaultEtcdVersion},
		"of an operator before that": {image: "localhost:5000/etcd:v3.6.1", want: "3.6.1"},
	} {
		t.Run(name, func(t *testing.T) {
			vault := newVault(1)
			vault.Spec.Storage.Etcd.Version = tt.named
			if tt.named == "" && tt.annotated == "" {
				vault.Spec.Storage.Etcd = nil
			}
			vault.Status.Storage = &v1alpha1.StorageStatus{Version: tt.known}
			set := newSet(vault, nil)
			set.Annotations = map[string]string{v1alpha1.VersionAnnotation: tt.annotated}
			if !tt.unready {
				set.Status.ReadyReplicas = 1
			}
			set.Spec.Template.Spec.Containers = []corev1.Container{{Name: "etcd", Image: tt.image}}
			if tt.annotated == "" && tt.image == "" {
				set = nil
			}
			if got := stateOf(vault, set).wantedVersion(); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestVersionDoesNotGoBack(t *testing.T) {
	for name, tt := range map[string]struct {
		wanted, deployed, known string
		allowed, observed       bool
		refused, waits          bool
	}{
		"the same": {wanted: "3.6.16", deployed: "3.6.16", known: "3.6.16", observed: true},
		"higher":   {wanted: "3.6.17", deployed: "3.6.16", known: "3.6.16", observed: true},
		"lower": {
			wanted: "3.6.15", deployed: "3.6.16", known: "3.6.16", observed: true, refused: true,
		},
		"back from one that never ran": {wanted: "3.6.16", deployed: "3.6.99", known: "3.6.16", observed: true},
		"back, by an older status":     {wanted: "3.6.16", deployed: "3.6.99", known: "3.6.16", waits: true},
		"further back than the data": {
			wanted: "3.6.10", deployed: "3.6.99", known: "3.6.16", observed: true, refused: true,
		},
		"allowed":                          {wanted: "3.6.15", deployed: "3.6.16", known: "3.6.16", allowed: true},
		"numbers are not compared as text": {wanted: "3.10.0", deployed: "3.6.16", known: "3.6.16", observed: true},
	} {
		vault := newVault(1)
		vault.Spec.Storage.Etcd.Version, vault.Spec.AllowDowngrade = tt.wanted, tt.allowed
		vault.Status.Storage = &v1alpha1.StorageStatus{Version: tt.known}
		if tt.observed {
			vault.Status.ObservedGeneration = vault.Generation
		}
		set := newSet(vault, nil)
		set.Annotations = map[string]string{v1alpha1.VersionAnnotation: tt.deployed}
		s := stateOf(vault, set)
		err := s.Refusal()
		var refusal *problem.Error
		if errors.As(err, &refusal) != tt.refused || refusal != nil && refusal.Reason != v1alpha1.ReasonDowngradeRefused {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.pending(); !tt.refused && (err != nil) != tt.waits {
			t.Errorf("%s: waits: %v", name, err)
		}
	}
}

func TestVersionThatIsWrittenDown(t *testing.T) {
	for name, tt := range map[string]struct {
		known, image, annotation string
		ready                    bool
		revision                 string
		allowed                  bool
		want                     string
	}{
		"by the image's tag":   {image: "localhost:5000/etcd:v3.6.16", ready: true, revision: "old", want: "3.6.16"},
		"by the annotation":    {image: "etcd@sha256:1", annotation: "3.6.17", ready: true, revision: "old", want: "3.6.17"},
		"of no tag":            {image: "localhost:5000/etcd", ready: true, revision: "old"},
		"not ready":            {image: "etcd:v3.6.99", revision: "old", known: "3.6.16", want: "3.6.16"},
		"ready with the older": {image: "etcd:v3.6.99", ready: true, revision: "other", known: "3.6.16", want: "3.6.16"},
		"lower":                {image: "etcd:v3.6.10", ready: true, revision: "old", known: "3.6.16", want: "3.6.16"},
		"lower and allowed": {
			image: "etcd:v3.6.10", ready: true, revision: "old", known: "3.6.16", allowed: true, want: "3.6.10",
		},
	} {
		vault := newVault(1)
		vault.Spec.AllowDowngrade = tt.allowed
		vault.Status.Storage = &v1alpha1.StorageStatus{Version: tt.known}
		set := newSet(vault, nil)
		set.Spec.Template.Spec.Containers = []corev1.Container{{Image: tt.image}}
		set.Annotations = map[string]string{v1alpha1.VersionAnnotation: tt.annotation}
		s := stateOf(vault, set)
		s.Members = []corev1.Pod{pod(vault, 0, tt.ready, tt.revision)}
		if got := s.Version(); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// An etcd that was founded is not founded again by empty volumes.
func TestClusterState(t *testing.T) {
	for name, tt := range map[string]struct {
		members int32
		known   []string
		claims  map[int]string
		going   []int
		want    string
		lost    int
	}{
		"not founded": {members: 3, claims: map[int]string{0: "a"}},
		"three as they were": {
			members: 3, known: []string{"a", "b", "c"}, claims: map[int]string{0: "a", 1: "b", 2: "c"},
		},
		"one is new": {
			members: 3, known: []string{"a", "b", "c"}, claims: map[int]string{0: "a", 1: "new", 2: "c"}, lost: 1,
		},
		"one is missing": {
			members: 3, known: []string{"a", "b", "c"}, claims: map[int]string{0: "a", 2: "c"}, lost: 1,
		},
		"two are new": {
			members: 3, known: []string{"a", "b", "c"}, claims: map[int]string{0: "a", 1: "new", 2: "new"},
			want: stateLost, lost: 2,
		},
		"all are": {
			members: 3, known: []string{"a", "b", "c"}, claims: map[int]string{0: "n", 1: "n", 2: "n"}, want: stateLost,
			lost: 3,
		},
		"two are being deleted": {
			members: 3, known: []string{"a", "b", "c"}, claims: map[int]string{0: "a", 1: "b", 2: "c"}, going: []int{1, 2},
			want: stateLost, lost: 2,
		},
		"two of five are new": {
			members: 5, known: []string{"a", "b", "c", "d", "e"}, claims: map[int]string{0: "a", 1: "b", 2: "c"}, lost: 2,
		},
		"a single one": {members: 1, known: []string{"a"}, claims: map[int]string{0: "a"}, want: stateExisting},
		"a single one that is new": {
			members: 1, known: []string{"a"}, claims: map[int]string{0: "new"}, want: stateExisting, lost: 1,
		},
	} {
		vault := newVault(tt.members)
		vault.Status.Storage = &v1alpha1.StorageStatus{}
		for i, uid := range tt.known {
			vault.Status.Storage.Volumes = append(vault.Status.Storage.Volumes,
				v1alpha1.StorageVolume{Claim: vault.EtcdClaimName(i), UID: types.UID(uid)})
		}
		s := stateOf(vault, newSet(vault, nil))
		for i, uid := range tt.claims {
			s.Claims[i] = claim(vault, i, "bound", "2Gi", "fast")
			s.Claims[i].UID = types.UID(uid)
			if slices.Contains(tt.going, i) {
				s.Claims[i].DeletionTimestamp = ptr(metav1.NewTime(now))
			}
			s.Members = append(s.Members, pod(vault, i, true, "old"))
		}
		if got := s.clusterState(); got != tt.want || len(s.Lost()) != tt.lost {
			t.Errorf("%s: %q with %v lost, want %q with %d", name, got, s.Lost(), tt.want, tt.lost)
		}
		// While most are lost those that are new are not believed, ready or not.
		believed := !slices.Equal(s.Volumes(), vault.StorageVolumes())
		want := tt.lost > 0 && !s.MostLost() && len(tt.claims) == int(tt.members) || name == "not founded"
		if believed != want {
			t.Errorf("%s: %v after %v", name, s.Volumes(), vault.StorageVolumes())
		}
	}
}

func TestVolumesOfMembersThatAreReady(t *testing.T) {
	vault := newVault(3)
	s := stateOf(vault, newSet(vault, nil))
	for i := range 3 {
		s.Claims[i] = claim(vault, i, "bound", "2Gi", "fast")
		s.Members = append(s.Members, pod(vault, i, i != 1, "old"))
	}
	// The pod of the last is still that of an earlier claim.
	s.Claims[2].CreationTimestamp = metav1.NewTime(now)
	want := []v1alpha1.StorageVolume{{Claim: "data-example-etcd-0", UID: "claim-0"}}
	if got := s.Volumes(); !slices.Equal(got, want) {
		t.Errorf("volumes %v, want %v", got, want)
	}
}

func unscheduled(p *corev1.Pod, since time.Time) {
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable,
		Message: "0/3 nodes are available", LastTransitionTime: metav1.NewTime(since),
	})
}

func waiting(reason string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{
			{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}},
		}
	}
}

func TestMissing(t *testing.T) {
	const typo = `storageclass.storage.k8s.io "fast-typo" not found`
	const quota = `create Pod example-etcd-0 in StatefulSet example-etcd failed error: ` +
		`pods "example-etcd-0" is forbidden: failed quota: q: must specify limits.cpu for: etcd`
	for name, tt := range map[string]struct {
		noPod   bool
		change  func(*corev1.Pod)
		unbound bool
		causes  map[types.UID][]string
		why     string
		failing bool
	}{
		"no pod": {noPod: true, why: "it has no pod"},
		"no pod for a quota": {
			noPod: true, causes: map[types.UID][]string{"set-uid": {"about example-etcd-1", quota}},
			why: "it has no pod: " + quota, failing: true,
		},
		"it starts":      {change: waiting("ContainerCreating"), why: "ContainerCreating"},
		"no image":       {change: waiting("ErrImagePull"), why: "ImagePullBackOff", failing: true},
		"still no image": {change: waiting("ImagePullBackOff"), why: "ImagePullBackOff", failing: true},
		"no Kubernetes node": {
			change: func(p *corev1.Pod) { unscheduled(p, now.Add(-time.Minute)) },
			why:    "Unschedulable: 0/3 nodes are available", failing: true,
		},
		"no Kubernetes node for now": {
			change: func(p *corev1.Pod) { unscheduled(p, now.Add(-time.Second)) },
			why:    "Unschedulable: 0/3 nodes are available",
		},
		"no class": {
			change: func(p *corev1.Pod) { unscheduled(p, now.Add(-time.Minute)) }, unbound: true,
			causes: map[types.UID][]string{"claim-0": {shorten(typo)}},
			why:    "unbound claim data-example-etcd-0: StorageClass fast-typo not found", failing: true,
		},
		"unbound without a word": {
			change: func(p *corev1.Pod) { unscheduled(p, now.Add(-time.Minute)) }, unbound: true,
			why: "unbound claim data-example-etcd-0: 0/3 nodes are available", failing: true,
		},
		"it was told to stay out": {change: func(p *corev1.Pod) {
			terminated := &corev1.ContainerStateTerminated{
				Message: `{"level":"warn","msg":"failed to verify flags","error":` +
					`"invalid value \"volumes-lost\" for ETCD_INITIAL_CLUSTER_STATE: invalid value"}`,
			}
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: terminated}}}
		}, why: `invalid value "volumes-lost" for ETCD_INITIAL_CLUSTER_STATE: invalid value`, failing: true},
	} {
		t.Run(name, func(t *testing.T) {
			vault := newVault(1)
			phase := "bound"
			if tt.unbound {
				phase = "unbound"
			}
			s := stateOf(vault, newSet(vault, nil), claim(vault, 0, phase, "2Gi", "fast"))
			if !tt.noPod {
				p := pod(vault, 0, false, "old")
				tt.change(&p)
				s.Members = []corev1.Pod{p}
			}
			unexplained := s.Unexplained()
			got := s.Missing(now, func(uid types.UID) []string { return tt.causes[uid] })
			want := []Member{{Name: "example-etcd-0", Why: tt.why, Failing: tt.failing}}
			if !slices.Equal(got, want) {
				t.Errorf("%+v, want %+v", got, want)
			}
			for uid := range tt.causes {
				if !slices.Contains(unexplained, uid) {
					t.Errorf("asks %v", unexplained)
				}
			}
		})
	}
}

func TestRollout(t *testing.T) {
	for name, tt := range map[string]struct {
		observed, generation int64
		current, update      string
		ended, fresh         bool
		pods                 []corev1.Pod
		want                 *Rollout
	}{
		"the first start":  {generation: 1, fresh: true},
		"it was made anew": {generation: 1, want: &Rollout{Pending: true}},
		"not seen yet":     {observed: 1, generation: 2, want: &Rollout{Pending: true}},
		"at rest": {
			observed: 1, generation: 1, current: "b", update: "b",
			pods: []corev1.Pod{pod(newVault(3), 0, true, "b"), pod(newVault(3), 1, true, "b"), pod(newVault(3), 2, true, "b")},
		},
		"a member is missing, later": {
			observed: 1, generation: 1, current: "b", update: "b", ended: true,
			pods: []corev1.Pod{pod(newVault(3), 0, true, "b"), pod(newVault(3), 1, false, "b")},
		},
		"it begins": {observed: 2, generation: 2, current: "a", update: "b",
			pods: []corev1.Pod{pod(newVault(3), 0, true, "a"), pod(newVault(3), 1, true, "a")},
			want: &Rollout{Old: []string{"example-etcd-0", "example-etcd-1"}, Starting: []string{"example-etcd-2"}}},
		"it fails": {observed: 2, generation: 2, current: "a", update: "b",
			pods: []corev1.Pod{pod(newVault(3), 0, true, "a"), pod(newVault(3), 1, true, "a"),
				func() corev1.Pod { p := pod(newVault(3), 2, false, "b"); waiting("ErrImagePull")(&p); return p }()},
			want: &Rollout{Old: []string{"example-etcd-0", "example-etcd-1"},
				Failing: []string{"example-etcd-2 (ImagePullBackOff)"}}},
		"the last one starts": {observed: 2, generation: 2, current: "a", update: "b",
			pods: []corev1.Pod{pod(newVault(3), 0, false, "b"), pod(newVault(3), 1, true, "b"), pod(newVault(3), 2, true, "b")},
			want: &Rollout{Starting: []string{"example-etcd-0"}}},
		"the first start of all": {observed: 1, generation: 1, current: "a", update: "a", fresh: true,
			pods: []corev1.Pod{
				pod(newVault(3), 0, false, "a"), pod(newVault(3), 1, false, "a"), pod(newVault(3), 2, false, "a"),
			}},
		"it has ended, and the controller knows no other revision": {observed: 2, generation: 2, current: "a", update: "b",
			pods: []corev1.Pod{pod(newVault(3), 0, true, "b"), pod(newVault(3), 1, true, "b"), pod(newVault(3), 2, true, "b")}},
		"it was set back": {observed: 3, generation: 3, current: "a", update: "a",
			pods: []corev1.Pod{pod(newVault(3), 0, true, "a"), pod(newVault(3), 1, true, "a"), pod(newVault(3), 2, false, "b")},
			want: &Rollout{Old: []string{"example-etcd-2"}}},
	} {
		vault := newVault(3)
		if !tt.fresh {
			vault.Status.Storage = &v1alpha1.StorageStatus{Volumes: []v1alpha1.StorageVolume{{Claim: "data-example-etcd-0"}}}
		}
		set := newSet(vault, nil)
		set.Generation = tt.generation
		set.Status = appsv1.StatefulSetStatus{
			ObservedGeneration: tt.observed, CurrentRevision: tt.current, UpdateRevision: tt.update,
		}
		s := stateOf(vault, set)
		s.Members = tt.pods
		got := s.Rollout(tt.ended)
		if got != nil && !got.Progress.IsZero() && !got.Progress.Equal(now.Add(-time.Hour)) {
			t.Errorf("%s: the last progress was at %v", name, got.Progress)
		}
		if got != nil {
			got.Progress = time.Time{}
		}
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", tt.want) {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
}

func TestShared(t *testing.T) {
	on := func(name, node string) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{NodeName: node}}
	}
	gone := on("d", "x")
	gone.DeletionTimestamp = ptr(metav1.NewTime(now))
	if got := Shared([]corev1.Pod{on("a", "x"), on("b", "y"), on("c", ""), on("e", ""), gone}); got != "" {
		t.Errorf("%q", got)
	}
	const want = "a, c share Kubernetes node x"
	if got := Shared([]corev1.Pod{on("a", "x"), on("b", "y"), on("c", "x")}); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestFailures(t *testing.T) {
	event := func(kind, reason, message string, ago time.Duration) corev1.Event {
		return corev1.Event{Type: kind, Reason: reason, Message: message, LastTimestamp: metav1.NewTime(now.Add(-ago))}
	}
	got := failures([]corev1.Event{
		event("Warning", "FailedCreate", "older", time.Minute),
		event("Warning", "FailedCreate", "newer", time.Second),
		event("Warning", "FailedCreate", "overcome", time.Hour),
		event("Warning", "FailedUpdate", "a conflict", 0),
		event("Normal", "WaitForFirstConsumer", "waiting", 0),
		event("Normal", "FailedBinding", "no class is set", time.Hour/6),
	}, now)
	if want := []string{"newer", "older", "no class is set"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestShorten(t *testing.T) {
	if got := shorten(strings.Repeat("ä", 400)); len(got) > maxCause+len("…") || !strings.HasSuffix(got, "ä…") {
		t.Errorf("%q", got)
	}
}

// Nodes with integrated storage may become more on the volumes that were kept, and not
// fewer: one that is gone would still count for the majority.
func TestKeptVolumesOfRaft(t *testing.T) {
	for name, tt := range map[string]struct {
		nodes   int32
		kept    []int
		refused string
	}{
		"the same":    {nodes: 3, kept: []int{0, 1, 2}},
		"one is lost": {nodes: 3, kept: []int{0, 2}},
		"more":        {nodes: 5, kept: []int{0, 1, 2}},
		"fewer": {nodes: 1, kept: []int{0, 1, 2},
			refused: "a Vault of 3 members: set spec.nodes to 3 instead of 1"},
		"most are lost":   {nodes: 3, kept: []int{2}, refused: "1 of 3 nodes, which is no quorum"},
		"nothing is kept": {nodes: 3},
	} {
		t.Run(name, func(t *testing.T) {
			vault := newVault(1)
			vault.Spec.Nodes = &tt.nodes
			vault.Spec.Storage = v1alpha1.StorageSpec{Raft: &v1alpha1.RaftStorage{}}
			s := &State{Vault: vault, Claims: map[int]*corev1.PersistentVolumeClaim{}}
			for _, ordinal := range tt.kept {
				s.Claims[ordinal] = claim(vault, ordinal, "bound", "10Gi", "fast")
			}
			err := s.Refusal()
			if (err != nil) != (tt.refused != "") || err != nil && !strings.Contains(err.Error(), tt.refused) {
				t.Errorf("refusal %v, want %q", err, tt.refused)
			}
		})
	}
}

// The volume of a node that the cluster has got rid of does not keep the StatefulSet from being made, while the others
// have become larger.
func TestLeftOverVolumesOfRaft(t *testing.T) {
	for _, going := range []bool{false, true} {
		vault := newVault(1)
		vault.Spec.Nodes = new(int32(3))
		size := resource.MustParse("20Gi")
		vault.Spec.Storage = v1alpha1.StorageSpec{Raft: &v1alpha1.RaftStorage{VolumeSize: &size}}
		s := &State{Vault: vault, Claims: map[int]*corev1.PersistentVolumeClaim{}}
		for ordinal := range 4 {
			s.Claims[ordinal] = claim(vault, ordinal, "bound", "20Gi", "fast")
		}
		s.Claims[4] = claim(vault, 4, "bound", "10Gi", "slow")
		if going {
			s.Claims[4].DeletionTimestamp = &metav1.Time{Time: time.Now()}
		}
		if err := cmp.Or(s.Refusal(), s.pending()); err == nil {
			t.Error("nothing is refused while nothing tells how many may run")
		}
		vault.Status.Raft = &v1alpha1.RaftStatus{Nodes: 4}
		if err := cmp.Or(s.Refusal(), s.pending()); err != nil {
			t.Errorf("refused: %v", err)
		}
	}
}

// TestMostOfFewAreLost checks that new nodes of integrated storage, which have no data yet, do not count.
func TestMostOfFewAreLost(t *testing.T) {
	vault := newVault(0)
	vault.Spec = v1alpha1.VaultSpec{Nodes: ptr(int32(3)), Storage: v1alpha1.StorageSpec{Raft: &v1alpha1.RaftStorage{}}}
	vault.Status.Storage = &v1alpha1.StorageStatus{
		Volumes: []v1alpha1.StorageVolume{{Claim: "data-example-0", UID: "old"}},
	}
	if s := stateOf(vault, nil); !s.MostLost() {
		t.Errorf("all that is known is lost: %v", s.Lost())
	}
	for _, name := range []string{"data-example-1", "data-example-2"} {
		vault.Status.Storage.Volumes = append(vault.Status.Storage.Volumes, v1alpha1.StorageVolume{Claim: name, UID: "old"})
	}
	s := stateOf(vault, nil)
	for i := range 2 {
		s.Claims[i] = &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("data-example-%d", i), UID: "old"},
		}
	}
	if s.MostLost() {
		t.Errorf("one of three is lost: %v", s.Lost())
	}
}
