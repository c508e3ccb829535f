package vaultversion

import (
	"strings"
	"testing"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/problem"
)

// TestOrder compares each of the versions, the lowest first, with each other;
// those in one line are the same.
func TestOrder(t *testing.T) {
	order := [][]string{
		{"", "latest", "1.21", "x1.21.0", "99999999999999999999.0.0"},
		{"0.11.6"},
		{"1.4.0"},
		{"1.20.4"},
		{"1.21.0-beta1"},
		{"1.21.0-rc1", "1.21.0-rc1+ent", "1.21.0-rc.1", "1.21.0-rc1-ent"},
		{"1.21.0-rc2"},
		{"1.21.0-rc10"},
		{
			"1.21.0", "v1.21.0", "1.21.0+ent", "1.21.0-ent", "1.21.0-ent.hsm.fips1403", "1.21.0-ubi", "1.21.0.7",
			"1.21.0-mine.2",
		},
		{"1.21.1-rc1"},
		{"1.21.1"},
		{"1.21.10", "1.21.10-ubi"},
		{"1.100.0"},
		{"2.0.0"},
	}
	for i, same := range order {
		for _, a := range same {
			for j, others := range order {
				for _, b := range others {
					if got, want := Lower(a, b), i < j; got != want {
						t.Errorf("Lower(%q, %q) = %v", a, b, got)
					}
				}
			}
		}
	}
}

func TestCheck(t *testing.T) {
	tests := []struct {
		name          string
		version, data string
		allowed       bool
		refused       bool
	}{
		{name: "a new Vault", version: "1.21.0"},
		{name: "the same", version: "1.21.0", data: "1.21.0"},
		{name: "the same of another edition", version: "1.21.0-ent", data: "1.21.0+ent"},
		{name: "an upgrade", version: "1.21.1", data: "1.21.0"},
		{name: "a downgrade", version: "1.21.0", data: "1.21.1", refused: true},
		{name: "a downgrade of the edition", version: "1.21.0-ubi", data: "1.21.1+ent", refused: true},
		{name: "back to a candidate", version: "1.21.0-rc1", data: "1.21.0", refused: true},
		{name: "a downgrade that is allowed", version: "1.21.0", data: "1.21.1", allowed: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Check(&v1alpha1.VaultSpec{Version: tt.version, AllowDowngrade: tt.allowed}, tt.data)
			if (err != nil) != tt.refused {
				t.Fatalf("Check() = %v", err)
			}
			if err != nil &&
				(problem.In(err) == nil || !strings.Contains(err.Error(), tt.version) || !strings.Contains(err.Error(), tt.data)) {
				t.Errorf("Check() = %v", err)
			}
		})
	}
}

func TestValid(t *testing.T) {
	for text, want := range map[string]bool{
		"1.21.0": true, "1.21.0-rc1": true, "1.21.0+ent.hsm.fips1403": true, "v1.21.0": true,
		"": false, "1.21": false, "latest": false, "1.21.0 1": false, "1.21.0\n": false, "1.21.0;reboot": false,
		"1.21.0-" + strings.Repeat("x", maxLength): false,
	} {
		if got := Valid(text); got != want {
			t.Errorf("Valid(%q) = %t, want %t", text, got, want)
		}
	}
}
