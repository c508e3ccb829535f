package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestDo(t *testing.T) {
	serves := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("secret"))
	}))
	defer serves.Close()
	standby := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer standby.Close()
	awake := make(chan struct{})
	hangs := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-awake }))
	defer hangs.Close()
	defer close(awake)
	redirects := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, serves.URL, http.StatusTemporaryRedirect)
	}))
	defer redirects.Close()
	gone := httptest.NewServer(nil)
	gone.Close()

	for name, c := range map[string]struct {
		addresses          []string
		served, noResponse bool
	}{
		"served":                         {addresses: []string{serves.URL}, served: true},
		"one of several serves":          {addresses: []string{hangs.URL, gone.URL, standby.URL, serves.URL}, served: true},
		"a response that does not serve": {addresses: []string{standby.URL}},
		"refused":                        {addresses: []string{gone.URL}},
		"no response":                    {addresses: []string{hangs.URL}, noResponse: true},
		"several, and none serves":       {addresses: []string{gone.URL, standby.URL}},
		"the last does not respond":      {addresses: []string{gone.URL, hangs.URL}, noResponse: true},
		"served in spite of others":      {addresses: []string{gone.URL, serves.URL}, served: true},
		"led to the active node":         {addresses: []string{redirects.URL}, served: true},
		"not sent on":                    {addresses: []string{gone.URL, redirects.URL}},
	} {
		h := newWorker(c.addresses, nil, "", time.Second)
		text, err := h.do(http.MethodGet, "foo", "")
		if served := err == nil && text == "secret"; served != c.served || err != nil && noResponse(err) != c.noResponse {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
}

func TestFollow(t *testing.T) {
	h := &worker{addresses: []string{"http://old"}}
	h.follow(strings.NewReader("http://first,http://second\nhttp://third,http://fourth\n"))
	if got := strings.Join(h.addresses, " "); got != "http://third http://fourth" {
		t.Errorf("the addresses are %q", got)
	}
}
