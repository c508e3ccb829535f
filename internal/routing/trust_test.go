package routing

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

// mounts makes the pod mount a CA.
func mounts(pod *corev1.Pod, secret string, items ...corev1.KeyToPath) *corev1.Pod {
	pod.Spec.Volumes = []corev1.Volume{{Name: "config"}, {Name: caVolume, VolumeSource: corev1.VolumeSource{
		Secret: &corev1.SecretVolumeSource{SecretName: secret, Items: items},
	}}}
	return pod
}

func TestCASourceOf(t *testing.T) {
	vault := newVault()
	for name, tt := range map[string]struct {
		pod  *corev1.Pod
		want caSource
	}{
		"what it mounts": {mounts(newPod(vault, "a", "", true), "mine"), caSource{"mine", v1alpha1.ClientCAKey}},
		"and under which key": {
			mounts(newPod(vault, "a", "", true), "mine", corev1.KeyToPath{Key: "ca.crt"}), caSource{"mine", "ca.crt"},
		},
		"what the spec names, else": {newPod(vault, "a", "", true), caSource{vault.ClientSecretName(), v1alpha1.ClientCAKey}},
	} {
		if got := caSourceOf(vault, tt.pod); got != tt.want {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
}

func TestTrust(t *testing.T) {
	vault := newVault()
	first, second, third := fakevault.NewCA(t).PEM, fakevault.NewCA(t).PEM, fakevault.NewCA(t).PEM
	secret := newCASecret(vault, first)
	f := newFixture(t, secret)
	pod := mounts(newPod(vault, "a", "10.0.0.1", true), secret.Name)
	list := []corev1.Pod{*pod, *newPod(vault, "b", "10.0.0.2", false)}
	get := func(wantReads int, want ...string) {
		t.Helper()
		got, err := f.trust.cas(t.Context(), f.api, f.APIReader, vault, list)
		joined := caSet{newest: want[0], earlier: strings.Join(want[1:], "\n")}
		if err != nil || got["uid-of-a"] != joined || got["uid-of-b"] != joined {
			t.Errorf("cas() = %q, %v, want %q", got, err, want)
		}
		if reads := f.reads(); reads != wantReads {
			t.Errorf("the content was read %d times, want %d", reads, wantReads)
		}
	}
	update := func(pem string) {
		t.Helper()
		secret.Data[v1alpha1.ClientCAKey] = []byte(pem)
		if err := f.api.Update(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
	}
	get(1, first)
	get(1, first)
	// A pod serves with the earlier certificate until it has loaded the new one.
	update(second)
	get(2, second, first)
	// One that is not usable takes the place of none.
	update("garbage")
	get(3, second, first)
	get(3, second, first)
	update(third)
	get(4, third, second, first)
	update(first)
	get(5, first, third, second)

	// The CAs are better than none while the API server is unavailable.
	broken := interceptor.NewClient(f.api.(client.WithWatch), interceptor.Funcs{
		Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
			return errors.New("the API server is unavailable")
		},
	})
	got, err := f.trust.cas(t.Context(), broken, broken, vault, list)
	if err == nil || got["uid-of-a"] != (caSet{newest: first, earlier: third + "\n" + second}) {
		t.Errorf("cas() without an API server = %q, %v, want the last ones and an error", got, err)
	}
	// And when the Secret is gone, which is no reason to look again: an event tells that it is back.
	if err := f.api.Delete(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	got, err = f.trust.cas(t.Context(), f.api, f.APIReader, vault, list)
	if err != nil || got["uid-of-a"].newest != first {
		t.Errorf("cas() without the Secret = %q, %v, want the last ones", got, err)
	}
}

// What tenants put into Secrets takes no more memory than the CAs of one bundle, and that once.
func TestTrustIsBounded(t *testing.T) {
	first := fakevault.NewCA(t).PEM
	many := func(size int) string {
		return strings.Repeat(fakevault.NewCA(t).PEM, size/len(first))
	}
	entry := caEntry{}.with("1", first)
	large := many(certs.MaxPEM + 1<<16)
	if entry = entry.with("2", large); len(entry.pems) != 1 || entry.pems[0].Value() != first {
		t.Errorf("%d bytes are kept", len(large))
	}
	// The one before is trusted whatever its size, and when only the version of the Secret is another.
	one, two, three := many(certs.MaxPEM/2), many(certs.MaxPEM-1<<16), many(certs.MaxPEM-1<<16)
	entry = entry.with("3", one).with("4", two).with("5", three).with("6", three)
	if len(entry.pems) != 2 || entry.pems[0].Value() != three || entry.pems[1].Value() != two {
		t.Errorf("%d CAs are kept, want the last two", len(entry.pems))
	}
}

// The spec names other certificates: the pods that run serve with those that they
// mount, and keep being verified by them, while new pods come with the new ones.
func TestChangedCertificatesCostNoMoreThanOneHandover(t *testing.T) {
	t.Parallel()
	vault := newVault()
	ours, theirs := fakevault.NewCA(t), fakevault.NewCA(t)
	before := newCASecret(vault, ours.PEM)
	a := fakevault.Start(t, ours.Certificate(t, vault.ServerName()), fakevault.Active)
	b := fakevault.Start(t, ours.Certificate(t, vault.ServerName()), fakevault.Standby)
	c := fakevault.Start(t, theirs.Certificate(t, vault.ServerName()), fakevault.Sealed)

	vault.Spec.TLS = &v1alpha1.TLSPolicy{Static: &v1alpha1.StaticTLS{ServerSecret: "mine", ClientSecret: "mine"}}
	f := newFixture(t, vault, before, newCASecret(vault, theirs.PEM),
		mounts(newPod(vault, "a", a.IP, true), before.Name),
		mounts(newPod(vault, "b", b.IP, false), before.Name),
		mounts(newPod(vault, "c", c.IP, false), "mine"))
	f.run(t, vault)
	state := func(uid string) probe.State {
		return f.Engine.Observations(client.ObjectKeyFromObject(vault))[newPod(vault, uid, "", false).UID].State
	}
	eventually(t, "all nodes are verified", func() bool {
		return state("a") == probe.Active && state("b") == probe.Standby && state("c") == probe.Sealed
	})
	c.Set(fakevault.Active)
	a.Set(fakevault.Standby)
	eventually(t, "the label is on the new pod", func() bool { return slices.Equal(f.labelled(t), []string{"c"}) })
	if got, want := f.patched(), []string{"-a", "+c"}; !slices.Equal(got, want) {
		t.Errorf("patches %v, want %v", got, want)
	}
}
