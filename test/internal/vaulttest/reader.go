package vaulttest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// readTimeout is how long a request may take.
const readTimeout = 10 * time.Second

// reader reads what is waited for. A process of kubectl for each look takes a fifth of a second of
// CPU, which what is waited for needs.
var reader = sync.OnceValues(func() (client.Reader, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	config.QPS, config.Timeout = -1, readTimeout
	return client.New(config, client.Options{Scheme: scheme})
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
