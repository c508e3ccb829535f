package operator

// What the operator may do in the namespaces that it serves, from which
// config/rbac/role.yaml is generated. What it may do in its own namespace alone is
// in config/rbac/leader_election_role.yaml, config/rbac/release_records_role.yaml,
// config/rbac/login_role.yaml and config/rbac/own_image_role.yaml.
//
// The resource itself, whose finalizer is added and removed; its status, which is
// applied; its finalizers subresource, so that what belongs to it may block its
// deletion where the API server asks for that permission, as in OpenShift.
// +kubebuilder:rbac:groups=vault.security.coreos.com,resources=vaults,verbs=get;list;watch;update
// +kubebuilder:rbac:groups=vault.security.coreos.com,resources=vaults/status,verbs=patch
// +kubebuilder:rbac:groups=vault.security.coreos.com,resources=vaults/finalizers,verbs=update
//
// What the chart renders.
// +kubebuilder:rbac:groups=apps,resources=deployments;statefulsets,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=services;serviceaccounts,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=policy,resources=poddisruptionbudgets,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=networking.k8s.io,resources=networkpolicies,verbs=get;list;watch;create;patch;delete
//
// A Vault names ConfigMaps; the one that version 0.1.0 made for it is kept as long as
// a pod has it mounted, and then deleted.
// +kubebuilder:rbac:groups="",resources=configmaps,verbs=get;list;watch;patch;delete
//
// Secrets that a Vault names are read, and watched as metadata; those with
// certificates and with configuration are made, adopted when a backup tool has
// restored them, and deleted when they are not used any more; those with the keys of a
// Vault that the operator initializes are made; records of Helm that an
// earlier version of the operator has left beside a Vault are removed. A
// ValidatingAdmissionPolicy confines the writing to Secrets of Vaults (config/admission).
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;watch;create;patch;delete
//
// Pods are watched, and get or lose the active label and the deletion cost. Those of nodes
// with a volume of their own, and of etcd members, are deleted in a rollout, the active node
// and etcd's leader last. A policy of the same kind confines both. ReplicaSets tell which pods are updated.
// +kubebuilder:rbac:groups="",resources=pods,verbs=list;watch;patch;delete
// +kubebuilder:rbac:groups=apps,resources=replicasets,verbs=list;watch
//
// Events tell administrators of a Vault what has happened to it.
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch
//
// Volume claims are compared with the spec, get an annotation that keeps Argo CD
// from deleting them, and ask for more where the spec does; controllers of Kubernetes make and
// delete them. Those of nodes that the cluster of integrated storage has got rid of are marked
// and deleted. Policies of the same kind confine all that. Their events, and
// those of the StatefulSet and of Vault pods, say why a pod cannot start.
// +kubebuilder:rbac:groups="",resources=persistentvolumeclaims,verbs=delete;list;patch;watch
// +kubebuilder:rbac:groups="",resources=events,verbs=list
//
// A ConfigMap keeps etcd members whose volumes are lost from founding a new cluster.
// +kubebuilder:rbac:groups="",resources=configmaps,verbs=get;create;update;delete
//
// Backups: each is made by a Job, under a ServiceAccount without rights. Those of a schedule are
// made and deleted by it.
// +kubebuilder:rbac:groups=vault.security.coreos.com,resources=vaultbackups,verbs=list;watch;create;patch;delete
// +kubebuilder:rbac:groups=vault.security.coreos.com,resources=vaultbackupschedules;vaultrestores,verbs=list;watch
// +kubebuilder:rbac:groups=vault.security.coreos.com,resources=vaultbackups/status;vaultbackupschedules/status;vaultrestores/status,verbs=patch
// +kubebuilder:rbac:groups=vault.security.coreos.com,resources=vaultbackups/finalizers;vaultrestores/finalizers,verbs=update
// +kubebuilder:rbac:groups=batch,resources=jobs,verbs=list;watch;create;delete
//
// Proofs: a backup is restored into a Vault that is made and deleted for that. The schedule has a finalizer
// meanwhile. A ValidatingAdmissionPolicy confines the making and deleting to such Vaults and VaultRestores.
// +kubebuilder:rbac:groups=vault.security.coreos.com,resources=vaults;vaultrestores,verbs=create;delete
// +kubebuilder:rbac:groups=vault.security.coreos.com,resources=vaultbackupschedules,verbs=patch
// +kubebuilder:rbac:groups=vault.security.coreos.com,resources=vaultbackupschedules/finalizers,verbs=update
