package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/operator-framework/api/pkg/operators/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
)

// input is what kustomize built, by what becomes of it.
type input struct {
	csv                 *v1alpha1.ClusterServiceVersion
	deployments         []appsv1.Deployment
	roles, clusterRoles map[string][]rbacv1.PolicyRule
	// bindings of roles to service accounts.
	roleBindings        []rbacv1.RoleBinding
	clusterRoleBindings []rbacv1.ClusterRoleBinding
	crds, samples       []*unstructured.Unstructured
	scorecard           map[string]any
	// others are in the bundle as they are.
	others []*unstructured.Unstructured
}

func read(manifests io.Reader) (*input, error) {
	in := &input{roles: map[string][]rbacv1.PolicyRule{}, clusterRoles: map[string][]rbacv1.PolicyRule{}}
	decoder := utilyaml.NewYAMLOrJSONDecoder(manifests, 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(&object.Object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if len(object.Object) == 0 {
			continue
		}
		if err := in.add(object); err != nil {
			return nil, fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
	if in.csv == nil {
		return nil, errors.New("there is no ClusterServiceVersion")
	}
	// Those that are bound become permissions of the CSV.
	bound := map[string]bool{}
	for _, binding := range in.clusterRoleBindings {
		bound[binding.RoleRef.Name] = true
	}
	in.others = slices.DeleteFunc(in.others, func(object *unstructured.Unstructured) bool {
		return object.GetKind() == "ClusterRole" && bound[object.GetName()]
	})
	return in, nil
}

func (in *input) add(object *unstructured.Unstructured) error {
	switch object.GetKind() {
	case "ClusterServiceVersion":
		return convert(object, &in.csv)
	case "CustomResourceDefinition":
		in.crds = append(in.crds, object)
	case "Vault", "VaultBackup", "VaultBackupSchedule", "VaultRestore":
		in.samples = append(in.samples, object)
	case "Configuration":
		in.scorecard = object.Object
	case "Deployment":
		return appendAs(object, &in.deployments)
	case "RoleBinding":
		return appendAs(object, &in.roleBindings)
	case "ClusterRoleBinding":
		return appendAs(object, &in.clusterRoleBindings)
	case "Role", "ClusterRole":
		var role rbacv1.ClusterRole
		if err := convert(object, &role); err != nil {
			return err
		}
		if object.GetKind() == "Role" {
			in.roles[role.Name] = role.Rules
			return nil
		}
		in.clusterRoles[role.Name] = role.Rules
		in.others = append(in.others, object)
	case "Namespace", "ServiceAccount":
		// OLM's own to make.
	default:
		in.others = append(in.others, object)
	}
	return nil
}

func convert(object *unstructured.Unstructured, into any) error {
	encoded, err := json.Marshal(object.Object)
	if err != nil {
		return err
	}
	return json.Unmarshal(encoded, into)
}

func appendAs[T any](object *unstructured.Unstructured, list *[]T) error {
	var typed T
	err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, &typed, true)
	*list = append(*list, typed)
	return err
}

// clusterServiceVersion completes the one that people wrote.
func (in *input) clusterServiceVersion(kinds map[string]description) (*v1alpha1.ClusterServiceVersion, error) {
	csv := in.csv.DeepCopy()
	csv.Namespace = ""
	if csv.Annotations == nil {
		csv.Annotations = map[string]string{}
	}
	examples, err := in.examples()
	if err != nil {
		return nil, err
	}
	csv.Annotations["alm-examples"] = examples
	install := &csv.Spec.InstallStrategy
	install.StrategyName = v1alpha1.InstallStrategyNameDeployment
	for _, deployment := range in.deployments {
		install.StrategySpec.DeploymentSpecs = append(install.StrategySpec.DeploymentSpecs, v1alpha1.StrategyDeploymentSpec{
			Name: deployment.Name, Label: deployment.Labels, Spec: deployment.Spec,
		})
		csv.Spec.RelatedImages = append(csv.Spec.RelatedImages, relatedImages(deployment.Spec.Template.Spec.Containers)...)
		csv.Annotations["containerImage"] = deployment.Spec.Template.Spec.Containers[0].Image
	}
	for _, binding := range in.roleBindings {
		if err := permit(&install.StrategySpec.Permissions, binding.RoleRef, binding.Subjects, in.roles); err != nil {
			return nil, err
		}
	}
	for _, binding := range in.clusterRoleBindings {
		if err := permit(&install.StrategySpec.ClusterPermissions, binding.RoleRef, binding.Subjects,
			in.clusterRoles); err != nil {
			return nil, err
		}
	}
	for _, crd := range in.crds {
		version, err := servedVersion(crd)
		if err != nil {
			return nil, err
		}
		kind, _, err := unstructured.NestedString(crd.Object, "spec", "names", "kind")
		if err != nil {
			return nil, err
		}
		described, known := kinds[kind]
		if !known {
			return nil, fmt.Errorf("the kind %s is not described", kind)
		}
		csv.Spec.CustomResourceDefinitions.Owned = append(csv.Spec.CustomResourceDefinitions.Owned, v1alpha1.CRDDescription{
			Name: crd.GetName(), Version: version, Kind: kind,
			DisplayName: described.kind.DisplayName, Description: described.doc,
			Resources: described.resources(), SpecDescriptors: described.specDescriptors(),
			StatusDescriptors: described.statusDescriptors(),
		})
	}
	return csv, nil
}

// examples are what consoles begin with, by name.
func (in *input) examples() (string, error) {
	slices.SortFunc(in.samples, func(a, b *unstructured.Unstructured) int {
		return strings.Compare(a.GetName(), b.GetName())
	})
	var list []any
	for _, sample := range in.samples {
		// It is created wherever the person is.
		sample.SetNamespace("")
		list = append(list, sample.Object)
	}
	text, err := json.MarshalIndent(list, "", "  ")
	return string(text), err
}

func servedVersion(crd *unstructured.Unstructured) (string, error) {
	versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
	if err != nil || len(versions) != 1 {
		return "", fmt.Errorf("%s has %d versions, want one (%w)", crd.GetName(), len(versions), err)
	}
	name, _, err := unstructured.NestedString(versions[0].(map[string]any), "name")
	return name, err
}

// permit adds the rules of a role for service accounts.
func permit(
	list *[]v1alpha1.StrategyDeploymentPermissions, role rbacv1.RoleRef, subjects []rbacv1.Subject,
	roles map[string][]rbacv1.PolicyRule,
) error {
	rules, ok := roles[role.Name]
	if !ok {
		return fmt.Errorf("there is no %s %s", role.Kind, role.Name)
	}
	for _, subject := range subjects {
		at := slices.IndexFunc(*list, func(p v1alpha1.StrategyDeploymentPermissions) bool {
			return p.ServiceAccountName == subject.Name
		})
		if at < 0 {
			at = len(*list)
			*list = append(*list, v1alpha1.StrategyDeploymentPermissions{ServiceAccountName: subject.Name})
		}
		(*list)[at].Rules = append((*list)[at].Rules, rules...)
	}
	return nil
}

// relatedImages are the images that mirrors have to hold.
func relatedImages(containers []corev1.Container) (images []v1alpha1.RelatedImage) {
	for _, container := range containers {
		images = append(images, v1alpha1.RelatedImage{Name: container.Name, Image: container.Image})
		for _, variable := range container.Env {
			if name, related := strings.CutPrefix(variable.Name, "RELATED_IMAGE_"); related {
				images = append(images,
					v1alpha1.RelatedImage{Name: strings.ReplaceAll(strings.ToLower(name), "_", "-"), Image: variable.Value})
			}
		}
	}
	return images
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
