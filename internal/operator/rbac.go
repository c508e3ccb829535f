package operator

// What the operator may do, from which config/rbac/role.yaml is generated.
//
// The resource itself; its finalizers, so that what belongs to it may block
// its deletion.
// +kubebuilder:rbac:groups=vault.security.coreos.com,resources=vaults,verbs=get;list;watch;update;patch
// +kubebuilder:rbac:groups=vault.security.coreos.com,resources=vaults/status,verbs=update;patch
// +kubebuilder:rbac:groups=vault.security.coreos.com,resources=vaults/finalizers,verbs=update
//
// What the chart renders.
// +kubebuilder:rbac:groups=apps,resources=deployments;statefulsets,verbs=get;list;watch;create;update;patch;delete
// +kubebuilder:rbac:groups="",resources=services;serviceaccounts;configmaps,verbs=get;list;watch;create;update;patch;delete
// +kubebuilder:rbac:groups=policy,resources=poddisruptionbudgets,verbs=get;list;watch;create;update;patch;delete
// +kubebuilder:rbac:groups=networking.k8s.io,resources=networkpolicies,verbs=get;list;watch;create;update;patch;delete
//
// Helm keeps its releases in Secrets; the operator makes those with certificates
// and reads those that a Vault names.
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;watch;create;update;delete
//
// Pods are watched, and get or lose the active label; ReplicaSets tell which
// pods are up to date.
// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=apps,resources=replicasets,verbs=get;list;watch
//
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch
//
// Volume claims are compared with the spec, and the StatefulSet controller makes and
// deletes them. Their events, and the StatefulSet's, say why a member cannot start.
// +kubebuilder:rbac:groups="",resources=persistentvolumeclaims,verbs=list;watch
// +kubebuilder:rbac:groups="",resources=events,verbs=list
//
// A ConfigMap keeps etcd members whose volumes are lost from founding a new cluster.
// +kubebuilder:rbac:groups="",resources=configmaps,verbs=get;create;update;delete
