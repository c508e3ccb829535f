//go:build e2e

package e2e

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/scrape"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

const (
	// metricPrefix is how the operator's own metrics begin.
	metricPrefix = "vault_operator_"
	// tokenPeriod is for how long the token of the seal lasts.
	tokenPeriod = 720 * time.Hour
	// clockTolerance is by how much times may differ that are the same.
	clockTolerance = time.Minute
)

// measured is a Vault whose metrics are read. It unseals the Vault "dependent", and has the schedule of backups
// "never".
type measured struct {
	vaulttest.Vault
	// since is when the token was made that the other Vault is unsealed with.
	since time.Time
	// replicas are the pods of the operator, and reader is a token that may read their metrics.
	replicas []string
	reader   string
}

// TestMetrics reads the metrics as docs/metrics.md tells an administrator to, of every
// replica of the operator: those that the page lists are served, with the right values, and no others.
func TestMetrics(t *testing.T) {
	t.Parallel()
	m := measured{Vault: vaulttest.Vault{Namespace: newNamespace(t), Name: "measured"}}
	ca := newUserCA(t, m.Vault)
	ca.issue(t, 90*24*time.Hour)
	shell.Apply(t, manifest(m.Vault, fmt.Sprintf(
		`{nodes: %d, tls: {static: {serverSecret: mine, clientSecret: my-ca}}, %s}`, several, anyStorage)))
	keys := m.InitAndUnseal(t, several)
	m.startDependent(t, keys)
	shell.Apply(t, fmt.Sprintf(`
apiVersion: vault.security.coreos.com/v1alpha1
kind: VaultBackupSchedule
metadata: {name: never, namespace: %s}
spec: {vault: measured, schedule: "0 5 1 1 *", suspend: true, destination: {persistentVolumeClaim: {claimName: none}}}`,
		m.Namespace))
	shell.Run(t, m.Kubectl("create serviceaccount other"))
	m.reader = newMetricsReader(t, m.Namespace)
	other := shell.Run(t, m.Kubectl("create token other"))

	m.replicas = strings.Fields(shell.Run(t,
		"kubectl -n "+operatorNamespace+" get pods -l app.kubernetes.io/name=vault-operator -o name"))
	for _, target := range append(slices.Clone(m.replicas), "service/vault-operator-controller-manager-metrics") {
		t.Run(target, func(t *testing.T) {
			m.awaitValues(t, target, 0)
			m.awaitSeal(t, target)
			for token, want := range map[string]int{"": http.StatusUnauthorized, other: http.StatusForbidden} {
				shell.Eventually(t, fmt.Sprintf("the response is %d", want), 10*time.Second, func() error {
					status, text, err := readMetrics(t, target, token)
					if err == nil && status == http.StatusInternalServerError {
						return errors.New("the API server does not say who asks") // it may be busy
					}
					if err == nil && (status != want || strings.Contains(text, metricPrefix)) {
						t.Errorf("status %d, want %d and no metrics", status, want)
					}
					return err
				})
			}
		})
	}
	t.Run("a schedule", func(t *testing.T) { m.awaitSchedule(t) })
	t.Run("what is documented is served", func(t *testing.T) { m.compareWithPage(t) })
	t.Run("a node that is sealed", func(t *testing.T) {
		shell.Run(t, m.Kubectl("delete pod %s", m.AwaitHA(t, several-1).VaultStatus.Standby[0]))
		sealed := m.AwaitSealed(t, 1).VaultStatus.Sealed[0]
		for _, replica := range m.replicas {
			m.awaitValues(t, replica, 1)
		}
		m.Unseal(t, sealed, keys)
		m.AwaitHA(t, several-1)
		for _, replica := range m.replicas {
			m.awaitValues(t, replica, 0)
		}
	})
	t.Run("a certificate that ends sooner", func(t *testing.T) {
		ca.issue(t, 60*24*time.Hour)
		series, end := m.certificateExpiry(t)
		for _, replica := range m.replicas {
			m.await(t, replica, "the end of the certificate is told", func(samples []scrape.Sample) error {
				return differences(valuesOf(samples, func(s scrape.Sample) bool { return s.Series == series }),
					map[string]float64{series: end})
			})
		}
	})
}

// startDependent starts a Vault that is unsealed by the measured one.
func (m *measured) startDependent(t *testing.T, keys vaulttest.Keys) {
	t.Helper()
	m.since = time.Now()
	m.Do(t, m.AwaitHA(t, several-1).VaultStatus.Active, keys.RootToken, `set -e
vault secrets enable transit
vault write -f transit/keys/dependent
echo 'path "transit/+/dependent" { capabilities = ["update"] }' | vault policy write dependent -
vault token create -orphan -period=`+tokenPeriod.String()+` -policy=dependent -field=token | `+
		m.Kubectl("create secret generic transit-token --from-file=token=/dev/stdin"))
	dependent := vaulttest.Vault{Namespace: m.Namespace, Name: "dependent"}
	shell.Apply(t, manifest(dependent, `{nodes: 1, `+smallEtcd+`, seal: {transit: {keyName: dependent, address: `+
		`"https://measured.`+m.Namespace+`.svc:8200", caSecretName: my-ca, credentialsSecretName: transit-token}}}`))
	env, stop := dependent.Forward(t, dependent.AwaitSealed(t, 1).VaultStatus.Sealed[0])
	defer stop()
	shell.Run(t, "vault operator init -recovery-shares=1 -recovery-threshold=1 >/dev/null", env...)
	dependent.AwaitHA(t, 0)
}

// awaitValues waits until a replica serves all that it should of the Vault, and nothing else, while so many of its
// nodes are sealed.
func (m *measured) awaitValues(t *testing.T, target string, sealed int) {
	t.Helper()
	want := map[string]float64{m.series("nodes_wanted"): float64(several)}
	for state, count := range map[string]int{
		"active": 1, "standby": several - 1 - sealed, "sealed": sealed, "unreachable": 0, "starting": 0,
	} {
		want[m.series("nodes", "state", state)] = float64(count)
	}
	for conditionType, holds := range map[string]bool{
		v1alpha1.ReadyCondition: sealed == 0, v1alpha1.UnsealedCondition: sealed == 0,
		v1alpha1.StalledCondition: false, v1alpha1.AvailableCondition: true, v1alpha1.InitializedCondition: true,
		v1alpha1.UpdatedCondition: true, v1alpha1.TLSReadyCondition: true, v1alpha1.ConfigValidCondition: true,
		v1alpha1.SealReadyCondition: true, v1alpha1.StorageReadyCondition: true,
	} {
		is := map[bool]string{true: "True", false: "False"}[holds]
		for _, status := range []string{"True", "False", "Unknown"} {
			want[m.series("condition", "status", status, "type", conditionType)] = 0
		}
		want[m.series("condition", "status", is, "type", conditionType)] = 1
	}
	series, end := m.certificateExpiry(t)
	want[series] = end
	lastSeen := m.series("active_last_seen_timestamp_seconds")
	m.await(t, target, fmt.Sprintf("the Vault is measured with %d sealed nodes", sealed), func(s []scrape.Sample) error {
		got := valuesOf(s, func(s scrape.Sample) bool {
			return s.Labels["namespace"] == m.Namespace && s.Labels["name"] == m.Name && s.Labels["schedule"] == ""
		})
		seen, served := got[lastSeen]
		if age := time.Since(time.Unix(int64(seen), 0)); !served || age.Abs() > clockTolerance {
			return fmt.Errorf("an active node was seen %s ago (served: %t)", age, served)
		}
		delete(got, lastSeen)
		return differences(got, want)
	})
}

// awaitSeal waits until a replica serves what it should of the seal of the other Vault.
func (m *measured) awaitSeal(t *testing.T, target string) {
	t.Helper()
	expiry := metricPrefix + "seal_token_expiry_timestamp_seconds"
	of := fmt.Sprintf(`name="dependent",namespace=%q`, m.Namespace)
	m.await(t, target, "the seal is measured", func(samples []scrape.Sample) error {
		got := valuesOf(samples, func(s scrape.Sample) bool {
			return s.Labels["namespace"] == m.Namespace && strings.HasPrefix(s.Metric, metricPrefix+"seal_")
		})
		// Nodes renew it.
		ends := time.Unix(int64(got[expiry+"{"+of+"}"]), 0)
		if ends.Before(m.since.Add(tokenPeriod-clockTolerance)) || ends.After(time.Now().Add(tokenPeriod+clockTolerance)) {
			return fmt.Errorf("the token ends at %s, and was made at %s for %s", ends, m.since, tokenPeriod)
		}
		delete(got, expiry+"{"+of+"}")
		return differences(got, map[string]float64{
			metricPrefix + "seal_healthy{" + of + `,type="transit"}`: 1, metricPrefix + "seal_token_healthy{" + of + "}": 1,
		})
	})
}

// awaitSchedule waits until the leader serves what it should of the schedule, and no other replica anything.
func (m *measured) awaitSchedule(t *testing.T) {
	t.Helper()
	var never v1alpha1.VaultBackupSchedule
	if err := vaulttest.Get(m.Namespace, "never", &never); err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{
		m.series("backup_last_success_timestamp_seconds", "schedule", "never"): 0,
		m.series("backup_last_due_timestamp_seconds", "schedule", "never"):     float64(never.CreationTimestamp.Unix()),
	}
	for _, level := range []string{"stored", "intact"} {
		want[m.series("backup_last_proven_timestamp_seconds", "level", level, "schedule", "never")] = 0
	}
	shell.Eventually(t, "the schedule is measured by one replica", time.Minute, func() error {
		leaders := 0
		for _, replica := range m.replicas {
			samples, err := m.read(t, replica)
			if err != nil {
				return err
			}
			got := valuesOf(samples, func(s scrape.Sample) bool {
				return s.Labels["namespace"] == m.Namespace && s.Labels["schedule"] != ""
			})
			if len(got) == 0 {
				continue
			}
			leaders++
			if err := differences(got, want); err != nil {
				return err
			}
		}
		if leaders != 1 {
			return fmt.Errorf("%d of %d replicas have it", leaders, len(m.replicas))
		}
		return nil
	})
}

// documentedMetric is a row of the table of docs/metrics.md.
type documentedMetric struct {
	kind   string
	labels []string
	// values are those that the last label may have; none are listed where there are no few.
	values []string
}

// compareWithPage compares what is served, of all Vaults, with the table of docs/metrics.md.
func (m *measured) compareWithPage(t *testing.T) {
	t.Helper()
	documented := documentedMetrics(t)
	for _, replica := range m.replicas {
		var samples []scrape.Sample
		shell.Eventually(t, "the metrics are read", 30*time.Second, func() (err error) {
			samples, err = m.read(t, replica)
			return err
		})
		for _, s := range samples {
			row, found := documented[s.Metric]
			if !found {
				t.Errorf("docs/metrics.md does not have %s", s.Metric)
				continue
			}
			labels := slices.DeleteFunc(slices.Sorted(maps.Keys(s.Labels)), func(label string) bool {
				return s.Type == "histogram" && label == "le"
			})
			if s.Type != row.kind || !slices.Equal(labels, slices.Sorted(slices.Values(row.labels))) {
				t.Errorf("docs/metrics.md says a %s with the labels %q of the %s %s", row.kind, row.labels, s.Type, s.Series)
				continue
			}
			if len(row.values) > 0 && !slices.Contains(row.values, s.Labels[row.labels[len(row.labels)-1]]) {
				t.Errorf("docs/metrics.md has only the values %q, and there is %s", row.values, s.Series)
			}
		}
	}
	// Some are served by the replica that leads, which there may be none of for a moment.
	unserved := maps.Clone(documented)
	shell.Eventually(t, "all that docs/metrics.md has is served", 2*time.Minute, func() error {
		for _, replica := range m.replicas {
			samples, err := m.read(t, replica)
			if err != nil {
				return err
			}
			for _, s := range samples {
				delete(unserved, s.Metric)
			}
		}
		if len(unserved) > 0 {
			return fmt.Errorf("no replica serves %q", slices.Sorted(maps.Keys(unserved)))
		}
		return nil
	})
}

func documentedMetrics(t *testing.T) map[string]documentedMetric {
	t.Helper()
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]documentedMetric{}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !strings.HasPrefix(cells[1], " `"+metricPrefix) {
			continue // not a row of the table
		}
		labels, values, _ := strings.Cut(cells[3], ":")
		documented[quotedIn(cells[1])[0]] = documentedMetric{
			kind: strings.TrimSpace(cells[2]), labels: quotedIn(labels), values: quotedIn(values),
		}
	}
	return documented
}

// quotedIn are the words of a page that are quoted as code.
func quotedIn(text string) (words []string) {
	for _, match := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(text, -1) {
		words = append(words, match[1])
	}
	return words
}

// certificateExpiry is the series that tells when the first certificate of the Vault ends, and when that is: the
// operator's own, and the user's CA, end long after the one of the nodes.
func (m *measured) certificateExpiry(t *testing.T) (series string, end float64) {
	t.Helper()
	var secret corev1.Secret
	if err := vaulttest.Get(m.Namespace, "mine", &secret); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(secret.Data[v1alpha1.ServerCertKey])
	if block == nil {
		t.Fatal("Secret mine has no certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return m.series("certificate_expiry_timestamp_seconds"), float64(leaf.NotAfter.Unix())
}

// series is that of a metric of the Vault, with more labels and their values: they are served in the order of
// their names.
func (m *measured) series(metric string, more ...string) string {
	labels := []string{fmt.Sprintf("name=%q", m.Name), fmt.Sprintf("namespace=%q", m.Namespace)}
	for i := 0; i < len(more); i += 2 {
		labels = append(labels, fmt.Sprintf("%s=%q", more[i], more[i+1]))
	}
	slices.Sort(labels)
	return metricPrefix + metric + "{" + strings.Join(labels, ",") + "}"
}

// await waits until what a replica serves is as wanted.
func (m *measured) await(t *testing.T, target, what string, wanted func([]scrape.Sample) error) {
	t.Helper()
	// A token that could not be looked up is looked up again in a minute.
	shell.Eventually(t, target+": "+what, 2*time.Minute, func() error {
		samples, err := m.read(t, target)
		if err != nil {
			return err
		}
		return wanted(samples)
	})
}

// read reads the operator's own metrics.
func (m *measured) read(t *testing.T, target string) ([]scrape.Sample, error) {
	t.Helper()
	status, text, err := readMetrics(t, target, m.reader)
	if err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("status %d, error %w", status, err)
	}
	return scrape.Parse(text, metricPrefix)
}

// readMetrics reads what a pod of the operator serves, or one behind its Service. A port-forward ends when the
// server has closed a connection, so each request has one of its own.
func readMetrics(t *testing.T, target, token string) (status int, text string, err error) {
	t.Helper()
	port := vaulttest.FreePort(t)
	process := shell.Start(t, fmt.Sprintf("kubectl -n %s port-forward %s %d:8443", operatorNamespace, target, port))
	defer process.Stop()
	vaulttest.AwaitPort(t, port, process)
	return scrape.Metrics(t.Context(), fmt.Sprintf("localhost:%d", port), token)
}

// valuesOf are the values of the samples that are chosen, by series.
func valuesOf(samples []scrape.Sample, chosen func(scrape.Sample) bool) map[string]float64 {
	values := map[string]float64{}
	for _, s := range samples {
		if chosen(s) {
			values[s.Series] = s.Value
		}
	}
	return values
}

// differences says what is served and not wanted, and the other way round; nil if nothing is.
func differences(got, want map[string]float64) error {
	var wrong []string
	for series, value := range want {
		if is, served := got[series]; !served {
			wrong = append(wrong, fmt.Sprintf("%s is not served, want %v", series, value))
		} else if is != value {
			wrong = append(wrong, fmt.Sprintf("%s is %v, want %v", series, is, value))
		}
	}
	for series, value := range got {
		if _, wanted := want[series]; !wanted {
			wrong = append(wrong, fmt.Sprintf("%s is %v, want none", series, value))
		}
	}
	if wrong == nil {
		return nil
	}
	return errors.New(strings.Join(slices.Sorted(slices.Values(wrong)), "\n"))
}
