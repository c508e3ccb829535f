// Command cluster runs a real three-node Kubernetes cluster on one Linux
// machine, as root, and removes it again. docs/local-cluster.md explains it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const usage = `usage: cluster COMMAND
  up                         start the cluster, or whatever of it does not run
  down                       stop and remove the cluster
  env                        print shell lines that set KUBECONFIG, PATH and LOCAL_CLUSTER, this command
  bin                        print the directory with the binaries
  status                     print what runs
  load FILE...               import image archives on all nodes, and print their digests
  newer-vault                make the image of a newer Vault, for upgrades
  kms                        make the image of a fake of AWS KMS
  s3                         make the image of an S3 server
  network-policies           enforce NetworkPolicies from now on
  olm                        make the images of the Operator Lifecycle Manager, and print where its chart is
  node NAME cut|join         take a node off the network, or put it back
  netns NAME                 print the path of the network namespace of a node, or of "control", the control plane
  pid NAMESPACE/POD CONTAINER  print the process id of a container on this machine`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no command\n%s", usage)
	}
	command, args := args[0], args[1:]
	switch {
	case command == "up" && len(args) == 0:
		return up(ctx)
	case command == "down" && len(args) == 0:
		return down(ctx)
	case command == "env" && len(args) == 0:
		return printEnv()
	case command == "bin" && len(args) == 0:
		fmt.Println(binDir())
		return nil
	case command == "status" && len(args) == 0:
		return printStatus()
	case command == "load" && len(args) > 0:
		return loadArchives(ctx, args)
	case command == "newer-vault" && len(args) == 0:
		return prepareNewerVault(ctx)
	case command == "kms" && len(args) == 0:
		return prepareKMS(ctx)
	case command == "s3" && len(args) == 0:
		return prepareS3(ctx)
	case command == "network-policies" && len(args) == 0:
		return enforcePolicies(ctx)
	case command == "olm" && len(args) == 0:
		return prepareOLM(ctx)
	case command == "node" && len(args) == 2:
		return setLink(ctx, args[0], args[1])
	case command == "netns" && len(args) == 1:
		path, err := findNetns(args[0])
		if err == nil {
			fmt.Println(path)
		}
		return err
	case command == "pid" && len(args) == 2:
		return printPID(ctx, args[0], args[1])
	case command == "provision" && len(args) == 0: // a process of the cluster
		return provision(ctx)
	case command == "forward" && len(args) == 0: // a process of the cluster
		return forward(ctx)
	}
	return fmt.Errorf("unknown command %q\n%s", os.Args[1:], usage)
}

// printEnv prints what a shell needs to use the cluster. LOCAL_CLUSTER is the program that its processes
// run, which need not be compiled anew each time.
func printEnv() error {
	dir, err := os.Getwd()
	if err == nil {
		fmt.Printf("export KUBECONFIG=%s\nexport PATH=%s:\"$PATH\"\nexport LOCAL_CLUSTER='env -C %s %s'\n",
			adminKubeconfig(), binDir(), dir, statePath("cluster"))
	}
	return err
}
