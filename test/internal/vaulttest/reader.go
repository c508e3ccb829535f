package vaulttest

import (
	"context"
	"errors"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// readTimeout is how long a request may take.
const readTimeout = 10 * time.Second

// reader reads what is waited for. A process of kubectl for each look takes a fifth of a second of
// CPU, which what is waited for needs.
var reader = sync.OnceValues(func() (client.Reader, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	kubeconfig, err := config.GetConfig()
	if err != nil {
		return nil, err
	}
	kubeconfig.QPS, kubeconfig.Timeout = -1, readTimeout
	return client.New(kubeconfig, client.Options{Scheme: scheme})
})

// Get reads an object, as the administrator that the kubeconfig is of.
func Get(namespace, name string, into client.Object) error {
	r, err := reader()
	if err != nil {
		return err
	}
	return r.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: name}, into)
}

// List reads the objects of a namespace that the options select.
func List(namespace string, into client.ObjectList, options ...client.ListOption) error {
	r, err := reader()
	if err != nil {
		return err
	}
	return r.List(context.Background(), into, append(options, client.InNamespace(namespace))...)
}
