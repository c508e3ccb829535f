// Package testdata has a kind with fields that nobody described.
package testdata

// Thing is what there is.
type Thing struct {
	Spec   ThingSpec   `json:"spec"`
	Status ThingStatus `json:"status"`
}

// ThingSpec is what is wanted.
type ThingSpec struct {
	// part of it.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Part",order=1
	Part *Part `json:"part,omitempty"`
}

// Part is a part.
type Part struct {
	// size of it,
	// in two lines.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Size",order=2,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:number"}
	Size int `json:"size"`
	// forgotten has no descriptor.
	Forgotten string `json:"forgotten"`
}

// ThingStatus is what there is.
type ThingStatus struct {
	// forgotten has a descriptor of the other block.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Forgotten"
	Forgotten string `json:"forgotten"`
}
