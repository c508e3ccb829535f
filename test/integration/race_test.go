//go:build integration && race

package integration

// memoryAllowed is by how many MiB the operator's memory may grow with annotations of
// others. The race detector keeps notes of all memory that is used.
// https://go.dev/doc/articles/race_detector#Runtime_Overheads
const memoryAllowed = 300
