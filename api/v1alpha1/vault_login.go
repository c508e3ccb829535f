package v1alpha1

// OperatorLoginPolicy has the operator log in to a Vault, to keep it available. What it may
// do there is what an administrator of Vault grants it.
type OperatorLoginPolicy struct {
	// enabled has the operator log in to this Vault. Defaults to false. Until an administrator of
	// Vault has authorized it Vault refuses that, and records it. A change restarts no node.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Log in",order=100,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:booleanSwitch","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Enabled bool `json:"enabled,omitempty"`
}

// HasOperatorLogin says that the operator is to log in to the Vault.
func (v *Vault) HasOperatorLogin() bool {
	return v.Spec.OperatorLogin != nil && v.Spec.OperatorLogin.Enabled
}

// OperatorLoginStatus is who logs in, as an administrator of Vault has to know it to authorize
// the operator. Nothing of it is secret.
type OperatorLoginStatus struct {
	// subject is the ServiceAccount that the operator runs as.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="ServiceAccount that logs in",order=42,xDescriptors={"urn:alm:descriptor:text"}
	Subject string `json:"subject"`

	// audience of the tokens by which the operator logs in: no other Vault, and not the API
	// server either, takes them.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Audience of its tokens",order=43,xDescriptors={"urn:alm:descriptor:text"}
	Audience string `json:"audience"`

	// publicKeys are the keys that the API server signs such tokens with, in PEM.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Public keys of the API server",order=44,xDescriptors={"urn:alm:descriptor:text"}
	// +listType=atomic
	// +optional
	PublicKeys []string `json:"publicKeys,omitempty"`
}

// LoginAudience is the audience of the tokens by which the operator logs in to this Vault. It
// has no UID in it: a Vault that is created again on the volumes of an earlier one has the
// grants of that one, and is the same for its clients.
func (v *Vault) LoginAudience() string {
	return "vault-operator/" + v.Namespace + "/" + v.Name
}
