package plugin

import (
	"archive/zip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

const (
	reportLogLines = 5000
	reportLogBytes = 4 << 20
)

// reported are the kinds of which the objects of a Vault are in a report. Secrets and
// ConfigMaps are not.
var reported = []schema.GroupVersionResource{
	{Group: "apps", Version: "v1", Resource: "deployments"},
	{Group: "apps", Version: "v1", Resource: "replicasets"},
	{Group: "apps", Version: "v1", Resource: "statefulsets"},
	{Version: "v1", Resource: "pods"},
	{Version: "v1", Resource: "services"},
	{Version: "v1", Resource: "persistentvolumeclaims"},
}

func (p *plugin) reportCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "report NAME",
		Short: "Write what a bug report needs into a zip file",
		Long: `Write what a bug report needs into a zip file: the Vault resource, its pods and what makes
them, events, logs and versions. Secrets and ConfigMaps are not read. Values of environment
variables, annotations, records of audit devices and what looks like a token, a key or a
password are taken out. Look through it nevertheless before you publish it: names of hosts,
images and namespaces are in it.`,
		Example: `  kubectl vault report example
  kubectl vault report example --file=/tmp/report.zip`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.vaultNames,
		RunE:              func(cmd *cobra.Command, args []string) error { return p.report(cmd.Context(), args[0], file) },
	}
	cmd.Flags().StringVar(&file, "file", "",
		"File to write, which must not be there; by default it is named by the Vault and the time")
	return cmd
}

func (p *plugin) report(ctx context.Context, name, file string) (err error) {
	cluster, err := p.connect()
	if err != nil {
		return err
	}
	vault, err := cluster.objects.Resource(vaultResource).Namespace(cluster.namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if file == "" {
		file = fmt.Sprintf("vault-%s-%s-%s.zip", cluster.namespace, vault.GetName(),
			time.Now().UTC().Format("20060102T150405Z"))
	}
	out, err := os.OpenFile(filepath.Clean(file), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if closed := out.Close(); err == nil {
			err = closed
		}
		if err != nil {
			_ = os.Remove(out.Name()) // what went wrong is told
		}
	}()
	r := &report{plugin: p, cluster: cluster, name: vault.GetName(), zip: zip.NewWriter(out),
		listed: map[object]bool{{"Vault", vault.GetName()}: true}}
	if err := r.write(ctx, vault.Object); err != nil {
		return err
	}
	if err := r.zip.Close(); err != nil {
		return err
	}
	_, err = fmt.Fprintln(p.out, file)
	return err
}

type object struct{ kind, name string }

// report is a report that is being written. What cannot be read is noted in it.
type report struct {
	*plugin
	*cluster
	name string
	zip  *zip.Writer
	// unread is what could not be read.
	unread []string
	// listed are the objects in the report, which events are about.
	listed map[object]bool
}

func (r *report) write(ctx context.Context, vault map[string]any) error {
	if err := r.addObject("vault.yaml", vault); err != nil {
		return err
	}
	if err := r.addVersions(); err != nil {
		return err
	}
	for _, resource := range reported {
		list, err := r.objects.Resource(resource).Namespace(r.namespace).List(ctx, r.ofVault())
		if err != nil {
			r.note(resource.Resource, err)
			continue
		}
		for i := range list.Items {
			r.listed[object{list.Items[i].GetKind(), list.Items[i].GetName()}] = true
		}
		if err := r.addObject(resource.Resource+".yaml", list.UnstructuredContent()); err != nil {
			return err
		}
	}
	if err := r.addEvents(ctx); err != nil {
		return err
	}
	if err := r.addLogs(ctx); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(r.unread) == 0 {
		return nil
	}
	return r.add("unread.txt", strings.Join(r.unread, "\n")+"\n")
}

// ofVault selects the objects of the Vault: those of something else may have the same instance.
func (r *report) ofVault() metav1.ListOptions {
	selector := labels.Set{v1alpha1.NameLabel: v1alpha1.AppName, v1alpha1.InstanceLabel: r.name}
	return metav1.ListOptions{LabelSelector: selector.String(), Limit: pageLimit}
}

// note notes what could not be read, which is most often a right that is missing.
func (r *report) note(what string, err error) {
	text := redactText(line(what + ": " + err.Error()))
	r.unread = append(r.unread, text)
	fmt.Fprintln(r.errOut, "Not in the report:", text)
}

func (r *report) add(name, text string) error {
	file, err := r.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: time.Now()})
	if err != nil {
		return err
	}
	_, err = io.WriteString(file, text)
	return err
}

func (r *report) addObject(name string, object map[string]any) error {
	text, err := yaml.Marshal(redactObject(object))
	if err != nil {
		return err
	}
	return r.add(name, string(text))
}

func (r *report) addVersions() error {
	kubernetes, err := r.serverVersion()
	if err != nil {
		r.note("version of Kubernetes", err)
		kubernetes = "unknown"
	}
	return r.add("versions.txt", fmt.Sprintf("plugin: %s (%s/%s)\nKubernetes: %s\n", r.version, runtime.GOOS,
		runtime.GOARCH, line(kubernetes)))
}

// addEvents adds the events about the Vault and about the objects in the report.
func (r *report) addEvents(ctx context.Context) error {
	resource := schema.GroupVersionResource{Version: "v1", Resource: "events"}
	options := metav1.ListOptions{Limit: pageLimit}
	var kept []any
	for page := 0; page < 20; page++ {
		list, err := r.objects.Resource(resource).Namespace(r.namespace).List(ctx, options)
		if err != nil {
			r.note("events", err)
			break
		}
		for i := range list.Items {
			about, _ := list.Items[i].Object["involvedObject"].(map[string]any)
			kind, _ := about["kind"].(string)
			name, _ := about["name"].(string)
			if r.listed[object{kind, name}] {
				kept = append(kept, list.Items[i].Object)
			}
		}
		if options.Continue = list.GetContinue(); options.Continue == "" {
			break
		}
	}
	return r.addObject("events.yaml", map[string]any{"apiVersion": "v1", "kind": "List", "items": kept})
}

// addLogs adds the logs of Vault and etcd, and those of containers before they restarted.
func (r *report) addLogs(ctx context.Context) error {
	pods, err := r.core.Pods(r.namespace).List(ctx, r.ofVault())
	if err != nil {
		r.note("logs", err)
		return nil
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			if err := r.addLog(ctx, pod.Name, status.Name, false); err != nil {
				return err
			}
			if status.RestartCount > 0 {
				if err := r.addLog(ctx, pod.Name, status.Name, true); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (r *report) addLog(ctx context.Context, pod, container string, previous bool) error {
	lines := int64(reportLogLines)
	name := "logs/" + pod + "/" + container + ".log"
	if previous {
		name = "logs/" + pod + "/" + container + ".previous.log"
	}
	stream, err := r.core.Pods(r.namespace).GetLogs(pod, &corev1.PodLogOptions{
		Container: container, Previous: previous, TailLines: &lines, Timestamps: true,
	}).Stream(ctx)
	if err != nil {
		r.note(name, err)
		return nil
	}
	defer stream.Close()
	var kept []string
	size, cut := 0, false
	err = eachLine(stream, func(one string) error {
		if isAudit(one) {
			one = "(a record of an audit device was left out)"
		}
		kept, size = append(kept, one), size+len(one)+1
		for ; size > reportLogBytes; cut = true { // the newest lines are what a report is for
			size -= len(kept[0]) + 1
			kept = kept[1:]
		}
		return nil
	})
	if err != nil {
		r.note(name, err)
	}
	if len(kept) > 0 && (cut || len(kept) >= reportLogLines) {
		kept[0] = "(what is before this was left out)" // it may be the end of a line with a secret
	}
	// At once, since keys are of more lines than one.
	return r.add(name, redactText(strings.Join(kept, "\n")+"\n"))
}
