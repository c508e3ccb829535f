package main

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// ensureNetwork makes the network namespaces: one for the control plane with a
// bridge, and one for each node, joined to it by a veth pair. The address
// ranges of the pods are routed from node to node.
func ensureNetwork(ctx context.Context) error {
	if !exists(netns(controlPlane)) {
		err := batch(ctx, "", []string{"ip netns add " + controlPlane})
		if err != nil {
			return err
		}
	}
	if _, err := output(ctx, "ip", "-n", controlPlane, "link", "show", bridge); err != nil {
		if err := batch(ctx, "ip -n "+controlPlane, []string{"link add " + bridge + " type bridge"}); err != nil {
			return err
		}
	}
	err := batch(ctx, "ip -n "+controlPlane, []string{
		"link set lo up",
		"addr replace " + controlPlaneIP + networkBits + " dev " + bridge,
		"link set " + bridge + " up",
	})
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if err := ensureNodeNetwork(ctx, n); err != nil {
			return err
		}
	}
	return enableForwarding(ctx, controlPlane)
}

func ensureNodeNetwork(ctx context.Context, n node) error {
	if !exists(netns(n.namespace())) {
		if err := batch(ctx, "", []string{"ip netns add " + n.namespace()}); err != nil {
			return err
		}
	}
	if _, err := output(ctx, "ip", "-n", n.namespace(), "link", "show", "eth0"); err != nil {
		err := batch(ctx, "ip -n "+controlPlane, []string{
			"link add " + n.link + " type veth peer name eth0 netns " + n.namespace(),
			"link set " + n.link + " master " + bridge + " up",
		})
		if err != nil {
			return err
		}
	}
	// All of this may be there already, from a command that was cut off or not.
	err := batch(ctx, "ip -n "+controlPlane, []string{
		"link set " + n.link + " master " + bridge,
		"route replace " + n.podCIDR + " via " + n.ip,
	})
	if err != nil {
		return err
	}
	commands := []string{
		"link set lo up",
		"addr replace " + n.ip + networkBits + " dev eth0",
		"link set eth0 up",
		"route replace default via " + controlPlaneIP,
	}
	for _, other := range nodes {
		if other != n {
			commands = append(commands, "route replace "+other.podCIDR+" via "+other.ip)
		}
	}
	if err := batch(ctx, "ip -n "+n.namespace(), commands); err != nil {
		return err
	}
	return enableForwarding(ctx, n.namespace())
}

func enableForwarding(ctx context.Context, namespace string) error {
	_, err := output(ctx, "nsenter", "--net="+netns(namespace), "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	return err
}

// setLink cuts a node off the network, or joins it again.
func setLink(ctx context.Context, name, action string) error {
	n, err := findNode(name)
	if err != nil {
		return err
	}
	state, ok := map[string]string{"cut": "down", "join": "up"}[action]
	if !ok {
		return fmt.Errorf("unknown action %q: want cut or join", action)
	}
	return batch(ctx, "ip -n "+controlPlane, []string{"link set " + n.link + " " + state})
}

// removeNetwork removes the network namespaces that are there.
func removeNetwork(ctx context.Context) {
	for _, n := range nodes {
		_, _ = output(ctx, "ip", "netns", "delete", n.namespace())
	}
	_, _ = output(ctx, "ip", "netns", "delete", controlPlane)
}

// batch runs commands that contain no spaces within an argument.
func batch(ctx context.Context, prefix string, commands []string) error {
	for _, command := range commands {
		if _, err := output(ctx, strings.Fields(prefix+" "+command)...); err != nil {
			return err
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
