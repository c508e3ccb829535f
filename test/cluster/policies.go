package main

import (
	"context"
	"time"
)

// kubeRouter enforces the NetworkPolicies on each node, and does nothing else here. Only the tests need it. It lets a
// pod start before the pod's policies take effect, which is within a second or two.
// https://www.kube-router.io/docs/user-guide/
const kubeRouter = "kube-router"

// enforcePolicies has NetworkPolicies enforced from now on.
func enforcePolicies(ctx context.Context) error {
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := ensureParts(ctx, []part{{module: kubeRouter, packages: map[string]string{
		kubeRouter: "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router",
	}}}); err != nil {
		return err
	}
	for _, n := range nodes {
		if err := start(n.policyProcess(), n.namespace(), bin(kubeRouter), "--run-firewall", "--run-router=false",
			"--run-service-proxy=false", "--enable-cni=false", "--kubeconfig="+kubeconfigPath(kubeRouter),
			"--hostname-override="+n.name, "--health-port=0"); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		err := await(ctx, n.name+" enforces NetworkPolicies", n.policyProcess(), time.Minute, func() error {
			_, err := output(ctx, "nsenter", "--net="+netns(n.namespace()), "iptables", "-S", "KUBE-ROUTER-FORWARD")
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (n node) policyProcess() string { return n.name + "-" + kubeRouter }
