package hammer

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	good, err := json.Marshal(Report{Reads: Outcome{Requests: 1, Outage: 2}})
	if err != nil {
		t.Fatal(err)
	}
	if report, err := parse(append(good, '\n')); err != nil || report.Reads.Outage != 2 {
		t.Errorf("%s: %+v, %v", good, report, err)
	}
	for name, output := range map[string]string{
		"a field of another name": strings.Replace(string(good), `"outage"`, `"gap"`, 1),
		"another text after it":   string(good) + "\nhammer: failed",
		"no report":               "hammer: failed",
		"an empty report":         "{}",
	} {
		if report, err := parse([]byte(output)); err == nil {
			t.Errorf("%s is taken for %+v", name, report)
		}
	}
}
