package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
)

const (
	// serverSecret and clientSecret are what spec.tls.static names, if anything.
	serverSecret = "server-tls"
	clientSecret = "client-tls"
	// podWriters is how many Vaults get their pods at a time.
	podWriters = 8
)

// fleet is all Vaults of a run: it does for them what controllers and the kubelet
// would, and sees how the operator labels their pods.
type fleet struct {
	o       options
	admin   client.Client
	ca      *issuer
	pairs   map[string]tls.Certificate // by namespace
	vaults  []*vault
	byName  map[types.NamespacedName]*vault
	pending chan *vault
	// lost counts active labels that were taken from a pod whose node said that it
	// is active, which is never right here.
	lost atomic.Int64
	// failed is the first error of a pod writer.
	failed atomic.Pointer[error]
}

// vault is one Vault with its nodes.
type vault struct {
	key     types.NamespacedName
	index   int
	enqueue sync.Once

	mu       sync.Mutex
	template corev1.PodTemplateSpec
	nodes    []*node
	active   int
	labelled map[int]bool
	running  time.Time
	// right is closed when the label is on the pod of the active node, and on no other.
	right   chan struct{}
	rightAt time.Time
}

func newFleet(ctx context.Context, p *controlPlane, o options, size int) (*fleet, error) {
	f := &fleet{o: o, admin: p.admin, pairs: map[string]tls.Certificate{}, byName: map[types.NamespacedName]*vault{},
		pending: make(chan *vault, size)}
	var err error
	if f.ca, err = newIssuer(); err != nil {
		return nil, err
	}
	for i := range size {
		namespace := fmt.Sprintf("scale-%d", i/o.perPlace)
		if i%o.perPlace == 0 {
			if err := f.createNamespace(ctx, namespace); err != nil {
				return nil, err
			}
		}
		v := &vault{key: types.NamespacedName{Namespace: namespace, Name: fmt.Sprintf("vault-%d", i)}, index: i,
			active: i % nodesPerVault, labelled: map[int]bool{}, right: make(chan struct{})}
		f.vaults = append(f.vaults, v)
		f.byName[v.key] = v
	}
	if err := f.watch(ctx, p); err != nil {
		return nil, err
	}
	for range podWriters {
		go f.writePods(ctx)
	}
	return f, nil
}

// createNamespace creates a namespace with the Secrets that its Vaults name.
func (f *fleet) createNamespace(ctx context.Context, name string) error {
	if err := f.admin.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
		return err
	}
	if f.o.generated {
		return nil
	}
	leaf, err := f.ca.certificate(ctx, name)
	if err != nil {
		return err
	}
	if f.pairs[name], err = tls.X509KeyPair(leaf.Cert, leaf.Key); err != nil {
		return err
	}
	for secret, data := range map[string]map[string][]byte{
		serverSecret: {v1alpha1.ServerCertKey: leaf.Cert, v1alpha1.ServerKeyKey: leaf.Key},
		clientSecret: {v1alpha1.ClientCAKey: f.ca.pair.Cert},
	} {
		object := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: secret}, Data: data}
		if err := f.admin.Create(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

// watch follows Deployments, which make pods due, and pods.
func (f *fleet) watch(ctx context.Context, p *controlPlane) error {
	ofVaults := labels.SelectorFromSet(labels.Set{v1alpha1.NameLabel: v1alpha1.AppName})
	c, err := cache.New(p.config, cache.Options{Scheme: p.admin.Scheme(), DefaultLabelSelector: ofVaults})
	if err != nil {
		return err
	}
	deployments, err := c.GetInformer(ctx, &appsv1.Deployment{}, cache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	_, err = deployments.AddEventHandler(toolscache.ResourceEventHandlerFuncs{AddFunc: func(object any) {
		deployment := object.(*appsv1.Deployment)
		if v := f.byName[client.ObjectKeyFromObject(deployment)]; v != nil {
			f.podsDue(v, deployment.Spec.Template)
		}
	}})
	if err != nil {
		return err
	}
	pods, err := c.GetInformer(ctx, &corev1.Pod{}, cache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	_, err = pods.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { f.see(object.(*corev1.Pod)) },
		UpdateFunc: func(_, object any) { f.see(object.(*corev1.Pod)) },
	})
	if err != nil {
		return err
	}
	go func() { _ = c.Start(ctx) }()
	if !c.WaitForCacheSync(ctx) {
		return errors.New("the cache of pods was not filled")
	}
	return nil
}

// see takes note of the label of a pod.
func (f *fleet) see(pod *corev1.Pod) {
	v := f.byName[types.NamespacedName{Namespace: pod.Namespace, Name: pod.Labels[v1alpha1.InstanceLabel]}]
	if v == nil || pod.Labels[v1alpha1.ComponentLabel] != v1alpha1.ServerComponent {
		return
	}
	i, err := strconv.Atoi(pod.Name[strings.LastIndex(pod.Name, "-")+1:])
	if err != nil {
		return
	}
	now := time.Now()
	v.mu.Lock()
	defer v.mu.Unlock()
	has := pod.Labels[v1alpha1.ActiveLabel] == v1alpha1.ActiveLabelValue
	if v.labelled[i] == has {
		return
	}
	if has {
		v.labelled[i] = true
	} else {
		delete(v.labelled, i)
		if i == v.active && v.nodes[i].get() == active && v.nodes[i].alive() {
			f.lost.Add(1)
			fmt.Printf("%s has lost the label; the node last responded %s ago\n", pod.Name,
				now.Sub(time.Unix(0, v.nodes[i].responded.Load())).Round(time.Millisecond))
		}
	}
	if v.isRight() {
		select {
		case <-v.right:
		default:
			v.rightAt = now
			close(v.right)
		}
	}
}

func (v *vault) isRight() bool { return len(v.labelled) == 1 && v.labelled[v.active] }

// create creates the Vault. It is written as a user would, without the empty fields
// of the Go types.
func (f *fleet) create(ctx context.Context, v *vault) error {
	spec := map[string]any{"nodes": int64(nodesPerVault)}
	if !f.o.generated {
		spec["tls"] = map[string]any{"static": map[string]any{"serverSecret": serverSecret, "clientSecret": clientSecret}}
	}
	if !f.o.releases {
		spec["configMapName"] = "missing"
	}
	object := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	object.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Vault"))
	object.SetNamespace(v.key.Namespace)
	object.SetName(v.key.Name)
	if err := f.admin.Create(ctx, object); err != nil {
		return err
	}
	if f.o.releases {
		return nil
	}
	var created v1alpha1.Vault
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &created); err != nil {
		return err
	}
	f.podsDue(v, templateWithoutRelease(&created))
	return nil
}

// templateWithoutRelease is what the operator looks at of a pod of a Vault.
func templateWithoutRelease(object *v1alpha1.Vault) corev1.PodTemplateSpec {
	source := corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: object.ClientSecretName()}}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: object.PodLabels()},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: v1alpha1.VaultContainer, Image: "vault"}},
			Volumes:    []corev1.Volume{{Name: "tls-ca", VolumeSource: source}},
		},
	}
}

func (f *fleet) podsDue(v *vault, template corev1.PodTemplateSpec) {
	v.enqueue.Do(func() {
		v.mu.Lock()
		v.template = template
		v.mu.Unlock()
		f.pending <- v
	})
}

// writePods gives pods to the Vaults that are to have them.
func (f *fleet) writePods(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case v := <-f.pending:
			if err := f.start(ctx, v); err != nil && ctx.Err() == nil {
				err = fmt.Errorf("the pods of %s: %w", v.key, err)
				f.failed.CompareAndSwap(nil, &err)
			}
		}
	}
}

// start starts the nodes of a Vault, unsealed, and writes their pods.
func (f *fleet) start(ctx context.Context, v *vault) error {
	pair, err := f.pair(ctx, v)
	if err != nil {
		return err
	}
	var nodes []*node
	for i := range nodesPerVault {
		n, err := startNode(v.index*nodesPerVault+i, pair)
		if err != nil {
			return err
		}
		if i == v.active {
			n.set(active)
		}
		nodes = append(nodes, n)
	}
	v.mu.Lock()
	v.nodes = nodes
	v.mu.Unlock()
	if f.o.releases {
		if err := f.createMembers(ctx, v); err != nil {
			return err
		}
	}
	for i, n := range nodes {
		if err := f.createPod(ctx, v, fmt.Sprintf("%s-%d", v.key.Name, i), v.template, n.ip); err != nil {
			return err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.running = time.Now()
	return nil
}

// pair is what the nodes of a Vault serve with.
func (f *fleet) pair(ctx context.Context, v *vault) (tls.Certificate, error) {
	if !f.o.generated {
		return f.pairs[v.key.Namespace], nil
	}
	name := (&v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: v.key.Name}}).ServerSecretName()
	var secret corev1.Secret
	if err := f.admin.Get(ctx, types.NamespacedName{Namespace: v.key.Namespace, Name: name}, &secret); err != nil {
		return tls.Certificate{}, err
	}
	pair := certs.KeyPair{Cert: secret.Data[v1alpha1.ServerCertKey], Key: secret.Data[v1alpha1.ServerKeyKey]}
	return tls.X509KeyPair(pair.Cert, pair.Key)
}

// createMembers writes the pods of the etcd members. They have no address, so that
// they are not probed.
func (f *fleet) createMembers(ctx context.Context, v *vault) error {
	name := (&v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: v.key.Name}}).EtcdName()
	var set appsv1.StatefulSet
	// Helm creates it after the Deployment.
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, labelTimeout, true,
		func(ctx context.Context) (bool, error) {
			err := f.admin.Get(ctx, types.NamespacedName{Namespace: v.key.Namespace, Name: name}, &set)
			return err == nil, client.IgnoreNotFound(err)
		})
	if err != nil || set.Spec.Replicas == nil {
		return err
	}
	for i := range *set.Spec.Replicas {
		template, member := *set.Spec.Template.DeepCopy(), fmt.Sprintf("%s-%d", name, i)
		for _, claim := range set.Spec.VolumeClaimTemplates {
			source := &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name + "-" + member}
			template.Spec.Volumes = append(template.Spec.Volumes,
				corev1.Volume{Name: claim.Name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: source}})
		}
		if err := f.createPod(ctx, v, member, template, ""); err != nil {
			return err
		}
	}
	return nil
}

// createPod writes a pod whose container has run for long and is ready.
func (f *fleet) createPod(ctx context.Context, v *vault, name string, template corev1.PodTemplateSpec,
	ip string) error {
	pod := &corev1.Pod{Spec: *template.Spec.DeepCopy()}
	pod.Namespace, pod.Name = v.key.Namespace, name
	pod.Labels, pod.Annotations = template.Labels, template.Annotations
	if err := f.admin.Create(ctx, pod); err != nil {
		return err
	}
	started := metav1.NewTime(time.Now().Add(-time.Hour))
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: &started,
		Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: started},
			{Type: corev1.ContainersReady, Status: corev1.ConditionTrue, LastTransitionTime: started},
		},
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: pod.Spec.Containers[0].Name, Image: "x", ImageID: "x", ContainerID: "containerd://" + name, Ready: true,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: started}},
		}},
	}
	if ip != "" {
		pod.Status.PodIP, pod.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
	}
	err := f.admin.Status().Update(ctx, pod)
	if apierrors.IsConflict(err) { // the operator may have labelled it already
		status := pod.Status
		if err = f.admin.Get(ctx, client.ObjectKeyFromObject(pod), pod); err == nil {
			pod.Status = status
			err = f.admin.Status().Update(ctx, pod)
		}
	}
	return err
}

// census is how the Vaults are at a moment.
type census struct{ running, right int }

func (f *fleet) census() (c census) {
	for _, v := range f.vaults {
		v.mu.Lock()
		if !v.running.IsZero() {
			c.running++
			if v.isRight() {
				c.right++
			}
		}
		v.mu.Unlock()
	}
	return c
}

// err is why a pod could not be written.
func (f *fleet) err() error {
	if err := f.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// handOver makes another node active in the same moment as the active one stops being it.
func (v *vault) handOver() (since time.Time, old *node) {
	v.mu.Lock()
	defer v.mu.Unlock()
	old = v.nodes[v.active]
	v.active = (v.active + 1) % nodesPerVault
	v.right = make(chan struct{})
	old.set(standby)
	v.nodes[v.active].set(active)
	return time.Now(), old
}

// activeNode is the node that is active.
func (v *vault) activeNode() *node {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.nodes[v.active]
}

// awaitRight waits for the label and returns when it was right.
func (v *vault) awaitRight(ctx context.Context, timeout time.Duration) (time.Time, bool) {
	v.mu.Lock()
	right := v.right
	v.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	select {
	case <-right:
	case <-ctx.Done():
		return time.Time{}, false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rightAt, true
}
