// Package localcluster has what test/cluster prints of the local cluster. LOCAL_CLUSTER is
// its command line.
package localcluster

import (
	"sync"

	"github.com/vault-operator/vault-operator/test/internal/shell"
)

// ControlPlane is what Netns calls the place of the control plane.
const ControlPlane = "control"

// known are the network namespaces that were printed before: they stay the same.
var known sync.Map

// Netns is the path of the network namespace of a node of the cluster, for nsenter.
func Netns(node string) (string, error) {
	if path, ok := known.Load(node); ok {
		return path.(string), nil
	}
	path, err := shell.Try("$LOCAL_CLUSTER netns " + node)
	if err == nil {
		known.Store(node, path)
	}
	return path, err
}
