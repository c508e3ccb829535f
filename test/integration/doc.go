// Package integration tests the operator against a real kube-apiserver and
// etcd, with the real CRD, the real chart and the operator's own RBAC role.
// There are no nodes and no controllers of Kubernetes: what the kubelet would
// do is done by the tests, and Vault nodes are those of package fakevault.
//
// The tests need KUBEBUILDER_ASSETS, a directory with kube-apiserver, etcd and
// kubectl; "make integration" sets it.
package integration
