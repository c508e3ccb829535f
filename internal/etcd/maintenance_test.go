package etcd

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// serve is a member that answers as it is told, and notes what it is asked.
func serve(t *testing.T, status int, response string) (*Member, *[]string) {
	t.Helper()
	var requests []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		requests = append(requests, strings.TrimPrefix(r.URL.Path, "/v3/")+" "+string(body))
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, response)
	}))
	t.Cleanup(server.Close)
	client := server.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Member{address: server.URL, client: client}, &requests
}

func TestMaintenance(t *testing.T) {
	m, requests := serve(t, http.StatusOK, `{"alarms": [{"memberID": "12", "alarm": "NOSPACE"}, `+
		`{"memberID": "13", "alarm": "CORRUPT"}, {"memberID": "18446744073709551615", "alarm": "NOSPACE"}]}`)
	for _, do := range []func() error{
		func() error { return m.Defragment(t.Context()) },
		func() error { return m.MoveLeader(t.Context(), "ff00000000000001") },
		func() error { return m.Disarm(t.Context()) },
	} {
		if err := do(); err != nil {
			t.Error(err)
		}
	}
	want := []string{
		`maintenance/defragment {}`, `maintenance/transfer-leadership {"targetID":"18374686479671623681"}`,
		`maintenance/alarm {"action":"GET"}`,
		`maintenance/alarm {"action":"DEACTIVATE","alarm":"NOSPACE","memberID":"12"}`,
		`maintenance/alarm {"action":"DEACTIVATE","alarm":"NOSPACE","memberID":"18446744073709551615"}`,
	}
	if !slices.Equal(*requests, want) {
		t.Errorf("asked %q, want %q", *requests, want)
	}
	if m.MoveLeader(t.Context(), "nobody") == nil {
		t.Error("a leader is moved to nobody")
	}
}

// What a member answers is not quoted, not followed, and not believed.
func TestMaintenanceFails(t *testing.T) {
	for response, status := range map[string]int{
		"MARKER": http.StatusInternalServerError, "": http.StatusTemporaryRedirect, "{": http.StatusOK,
		`{"alarms": [{"memberID": "MARKER", "alarm": "NOSPACE"}]}`:          http.StatusOK,
		`{"alarms": [` + strings.Repeat(`{},`, 2*maxMembers) + `{}]}`:       http.StatusOK,
		`{"alarms": [{"memberID": "` + strings.Repeat("1", 20<<10) + `"}]}`: http.StatusOK,
	} {
		m, requests := serve(t, status, response)
		err := m.Disarm(t.Context())
		if err == nil || strings.Contains(err.Error(), "MARKER") || len(*requests) != 1 {
			t.Errorf("%.40s: error %v, asked %d times", response, err, len(*requests))
		}
	}
}

func TestCountAgain(t *testing.T) {
	const list = `{"members": [{"ID": "7", "name": "a-etcd-1", "peerURLs": ["https://a-etcd-1:2380"]}, ` +
		`{"ID": "18446744073709551615", "name": "a-etcd-0", "peerURLs": ["https://a-etcd-0:2380"]}]}`
	m, requests := serve(t, http.StatusOK, list)
	m.name = "a-etcd-0"
	if err := m.CountAgain(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`cluster/member/list {"linearizable":true}`,
		`cluster/member/update {"ID":"18446744073709551615","peerURLs":["https://a-etcd-0:2380"]}`,
	}
	if !slices.Equal(*requests, want) {
		t.Errorf("asked %q, want %q", *requests, want)
	}
	for _, response := range []string{
		list, `{"members": [{"ID": "MARKER", "name": "a-etcd-2", "peerURLs": ["u"]}]}`,
		`{"members": [{"ID": "7", "name": "a-etcd-2"}]}`, "{",
	} {
		m, requests := serve(t, http.StatusOK, response)
		m.name = "a-etcd-2"
		err := m.CountAgain(t.Context())
		if err == nil || strings.Contains(err.Error(), "MARKER") || len(*requests) != 1 {
			t.Errorf("%.40s: error %v, asked %d times", response, err, len(*requests))
		}
	}
}
