// Package vaultversion compares versions of Vault, and refuses one that may not
// be able to read the data of a newer one.
package vaultversion

import (
	"regexp"

	"k8s.io/apimachinery/pkg/util/version"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/problem"
)

// form matches the versions in tags of Vault images and in responses of Vault: 1.21.0,
// 1.21.0-rc1, 1.21.0-ent.hsm, 1.21.0-rc1+ent. Only the suffix of a pre-release counts
// for the order. Any other names an edition or a base image of the same version.
var form = regexp.MustCompile(`^v?([0-9]+\.[0-9]+\.[0-9]+)(?:-(alpha|beta|rc)[.]?([0-9]*))?`)

// parse returns nil for what is not a version.
func parse(text string) *version.Version {
	parts := form.FindStringSubmatch(text)
	if parts == nil {
		return nil
	}
	semantic := parts[1]
	if parts[2] != "" {
		semantic += "-" + parts[2]
	}
	if parts[3] != "" {
		semantic += "." + parts[3] // a number by itself is not compared as text
	}
	v, err := version.ParseSemantic(semantic)
	if err != nil {
		return nil
	}
	return v
}

// maxLength of a version: those of Vault have less than 30 characters.
const maxLength = 64

// complete matches what the whole text of a version may consist of.
var complete = regexp.MustCompile(`^[0-9A-Za-z.+-]+$`)

// Valid says that the text is a version of Vault, and nothing else.
func Valid(text string) bool {
	return len(text) <= maxLength && complete.MatchString(text) && parse(text) != nil
}

// Lower says that a is a lower version than b. What is not a version, such as
// nothing, is lower than any that is.
func Lower(a, b string) bool {
	first, second := parse(a), parse(b)
	if first == nil || second == nil {
		return second != nil
	}
	return first.LessThan(second)
}

// Check returns a *problem.Error when Vault may not be able to read its data with
// the version that the spec asks for. Vault supports no downgrade.
// https://developer.hashicorp.com/vault/docs/upgrade/rollback
func Check(spec *v1alpha1.VaultSpec, dataVersion string) error {
	if spec.AllowDowngrade || !Lower(spec.Version, dataVersion) {
		return nil
	}
	return problem.New(v1alpha1.UpdatedCondition, v1alpha1.ReasonDowngradeRefused,
		"spec.version %s is refused: a node has been active with %s, and a lower version may not read the data that "+
			"it left. Set spec.version to %s or higher, or restore older data and set spec.allowDowngrade",
		spec.Version, dataVersion, dataVersion)
}
