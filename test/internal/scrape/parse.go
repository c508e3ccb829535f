package scrape

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Sample is a value that is served.
type Sample struct {
	// Metric is the name of the metric, without what a histogram adds to it, and Type what it is.
	Metric, Type string
	// Series is what the value is of, as it is served: a name and labels.
	Series string
	Labels map[string]string
	Value  float64
}

var (
	// typed is a line that says of which type the metric of the next lines is.
	typed = regexp.MustCompile(`^# TYPE (\w+) (\w+)$`)
	// sampled is a line with a value. Client_golang writes no time after it.
	sampled  = regexp.MustCompile(`^((\w+)(?:\{(.*)\})?) (\S+)$`)
	labelled = regexp.MustCompile(`(\w+)="((?:[^"\\]|\\.)*)"`)
)

// Parse reads the metrics whose names begin with the prefix from what is served.
// https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
func Parse(text, prefix string) ([]Sample, error) {
	var samples []Sample
	metric, kind := "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if match := typed.FindStringSubmatch(line); match != nil {
			metric, kind = match[1], match[2]
			continue
		}
		if !strings.HasPrefix(line, prefix) {
			continue
		}
		match := sampled.FindStringSubmatch(line)
		if match == nil || metric == "" || !strings.HasPrefix(match[2], metric) {
			return nil, fmt.Errorf("after the type of %q there is %q", metric, line)
		}
		value, err := strconv.ParseFloat(match[4], 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", match[1], err)
		}
		sample := Sample{Metric: metric, Type: kind, Series: match[1], Labels: map[string]string{}, Value: value}
		for _, label := range labelled.FindAllStringSubmatch(match[3], -1) {
			sample.Labels[label[1]] = label[2]
		}
		samples = append(samples, sample)
	}
	return samples, nil
}
