package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/operator-framework/api/pkg/operators/v1alpha1"
	"golang.org/x/tools/go/packages"
	"sigs.k8s.io/controller-tools/pkg/loader"
	"sigs.k8s.io/controller-tools/pkg/markers"
)

// markerName is the marker of operator-sdk, so that its own command reads the
// same: https://sdk.operatorframework.io/docs/building-operators/golang/references/markers/
const markerName = "operator-sdk:csv:customresourcedefinitions"

// csvMarker is what a marker can say of a type or a field.
type csvMarker struct {
	Type         string     `marker:"type,optional"`
	DisplayName  string     `marker:"displayName,optional"`
	Order        int        `marker:"order,optional"`
	XDescriptors []string   `marker:"xDescriptors,optional"`
	Resources    [][]string `marker:"resources,optional"`
}

// described is a field that has a descriptor.
type described struct {
	csvMarker
	path, description string
}

// description is what the Go types say of a kind.
type description struct {
	kind         csvMarker
	doc          string
	spec, status []described
	// missing are the paths of fields without a descriptor.
	missing []string
}

// types are the Go types of an API package by their names.
type types map[string]*markers.TypeInfo

// describe reads what the types of a package say of a kind. Nested fields come after
// their parents: consoles draw the fields in this order, and misplace a nested field that
// comes before its parent.
func describe(dir, kind string) (d description, err error) {
	all, err := load(dir)
	if err != nil {
		return d, err
	}
	root := all[kind]
	if root == nil {
		return d, fmt.Errorf("there is no type %s in %s", kind, dir)
	}
	d.kind, _ = root.Markers.Get(markerName).(csvMarker)
	d.doc = paragraph(root.Doc)
	for _, field := range root.Fields {
		switch nameOf(field) {
		case "spec":
			all.collect(&d, &d.spec, field, "spec", "")
		case "status":
			all.collect(&d, &d.status, field, "status", "")
		}
	}
	for _, list := range [][]described{d.spec, d.status} {
		slices.SortStableFunc(list, func(a, b described) int { return cmp.Compare(a.Order, b.Order) })
	}
	return d, nil
}

func load(dir string) (types, error) {
	registry := &markers.Registry{}
	for _, target := range []markers.TargetType{markers.DescribesType, markers.DescribesField} {
		definition, err := markers.MakeDefinition(markerName, target, csvMarker{})
		if err != nil {
			return nil, err
		}
		if err := registry.Register(definition); err != nil {
			return nil, err
		}
	}
	roots, err := loader.LoadRootsWithConfig(&packages.Config{Dir: dir}, ".")
	if err != nil {
		return nil, err
	}
	all := types{}
	for _, root := range roots {
		err := markers.EachType(&markers.Collector{Registry: registry}, root, func(info *markers.TypeInfo) {
			all[info.Name] = info
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// collect adds the descriptors of what is in a field.
func (all types) collect(d *description, list *[]described, parent markers.FieldInfo, block, path string) {
	info := all[typeOf(parent)]
	if info == nil {
		return
	}
	for _, field := range info.Fields {
		at := strings.TrimPrefix(path+"."+nameOf(field), ".")
		marker, ok := field.Markers.Get(markerName).(csvMarker)
		if !ok || marker.Type != block || marker.DisplayName == "" {
			d.missing = append(d.missing, block+"."+at)
		} else {
			*list = append(*list, described{csvMarker: marker, path: at, description: help(nameOf(field), field.Doc)})
		}
		all.collect(d, list, field, block, at)
	}
}

// typeOf is the name of a field's type, without its pointer. It is empty for
// lists and for types of other packages, whose parts have no descriptors.
func typeOf(field markers.FieldInfo) string {
	expression := field.RawField.Type
	if star, ok := expression.(*ast.StarExpr); ok {
		expression = star.X
	}
	if ident, ok := expression.(*ast.Ident); ok {
		return ident.Name
	}
	return ""
}

func nameOf(field markers.FieldInfo) string {
	name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
	return name
}

// help is what a comment says to somebody who does not see the name of the field.
func help(name, doc string) string {
	text := paragraph(doc)
	for _, verb := range []string{" is ", " are ", " says "} {
		if rest, ok := strings.CutPrefix(text, name+verb); ok {
			text = rest
			break
		}
	}
	first, size := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(first)) + text[size:]
}

// paragraph joins the lines of a comment.
func paragraph(doc string) string { return strings.Join(strings.Fields(doc), " ") }

func (d description) specDescriptors() (list []v1alpha1.SpecDescriptor) {
	for _, field := range d.spec {
		list = append(list, v1alpha1.SpecDescriptor{
			Path: field.path, DisplayName: field.DisplayName, Description: field.description, XDescriptors: field.XDescriptors,
		})
	}
	return list
}

func (d description) statusDescriptors() (list []v1alpha1.StatusDescriptor) {
	for _, field := range d.status {
		list = append(list, v1alpha1.StatusDescriptor{
			Path: field.path, DisplayName: field.DisplayName, Description: field.description, XDescriptors: field.XDescriptors,
		})
	}
	return list
}

func (d description) resources() (list []v1alpha1.APIResourceReference) {
	for _, resource := range d.kind.Resources {
		list = append(list, v1alpha1.APIResourceReference{Kind: resource[0], Version: resource[1]})
	}
	return list
}
