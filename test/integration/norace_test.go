//go:build integration && !race

package integration

// memoryAllowed is by how many MiB the operator's memory may grow with annotations of
// others.
const memoryAllowed = 120
