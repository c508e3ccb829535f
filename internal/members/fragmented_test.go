package members

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/internal/etcd"
)

// ofSizes are members of an etcd whose 0 leads, each with a database of that many MiB and that
// many in use.
func ofSizes(sizes ...[2]int64) []member {
	var members []member
	for i, s := range sizes {
		members = append(members, member{
			Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint(i)), Ordinal: i, Updated: true, Ready: true, Sound: true,
			Leader: i == 0, Report: etcd.Report{
				ID: fmt.Sprint("id-", i), Size: s[0] * mebibyte, InUse: s[1] * mebibyte, Quota: 896 * mebibyte,
			},
		})
	}
	return members
}

func TestNextStep(t *testing.T) {
	full, half, tight := [2]int64{200, 190}, [2]int64{200, 50}, [2]int64{64, 1}
	all := func(change func(*member)) []member {
		members := ofSizes(half, half, half)
		for i := range members {
			change(&members[i])
		}
		return members
	}
	one := func(of int, change func(*member)) []member {
		members := ofSizes(half, half, half)
		change(&members[of])
		return members
	}
	alarmed := func(members []member) []member {
		for i := range members {
			members[i].Report.Alarm = etcd.NoSpace
		}
		return members
	}
	for name, tt := range map[string]struct {
		members []member
		want    step
	}{
		"the highest number comes first":   {ofSizes(half, half, half), step{Defragment: "2"}},
		"those that are well are left out": {ofSizes(half, half, full), step{Defragment: "1"}},
		"the leader hands over":            {ofSizes(half, full, full), step{From: "0", To: "id-1"}},
		"a single one does not":            {ofSizes(half), step{Defragment: "0"}},
		"all are well":                     {ofSizes(full, full, full), step{}},
		"too little is free":               {ofSizes(tight, tight, tight), step{}},
		"half is in use":                   {ofSizes([2]int64{400, 201}), step{}},
		"near the quota":                   {ofSizes([2]int64{700, 450}), step{Defragment: "0"}},
		"near the quota, little is free":   {ofSizes([2]int64{700, 600}), step{}},
		"too much would be copied": {one(2, func(m *member) {
			m.Report = etcd.Report{Size: 4000 * mebibyte, InUse: 600 * mebibyte, Quota: 8000 * mebibyte}
		}), step{Defragment: "1"}},
		"it has grown again": {one(2, func(m *member) { m.Recent = true }), step{Defragment: "1"}},
		"and cannot be written to": {alarmed(one(2, func(m *member) { m.Recent = true })),
			step{Defragment: "2"}},

		"nothing is known":           {all(func(m *member) { m.Report = etcd.Report{} }), step{}},
		"the quota is not known":     {all(func(m *member) { m.Report.Quota = 0 }), step{}},
		"what is used is not known":  {all(func(m *member) { m.Report.InUse = 0 }), step{}},
		"a member is missing":        {ofSizes(half, half), step{}},
		"a pod is of an older one":   {one(0, func(m *member) { m.Updated = false }), step{}},
		"a pod is being deleted":     {one(0, func(m *member) { m.Terminating = true }), step{}},
		"a member is not ready":      {one(1, func(m *member) { m.Ready = false }), step{}},
		"a member does not run":      {one(1, func(m *member) { m.Down = true }), step{}},
		"a member cannot be trusted": {one(1, func(m *member) { m.Sound = false }), step{}},
		"nobody leads":               {one(0, func(m *member) { m.Leader = false }), step{}},
		"two lead":                   {one(1, func(m *member) { m.Leader = true }), step{}},

		"the alarm waits for the last member": {alarmed(ofSizes(full, full, half)), step{Defragment: "2"}},
		"there is room again":                 {alarmed(ofSizes(full, full, full)), step{Disarm: "0"}},
		"only the leader counts what was freed": {alarmed(ofSizes([2]int64{850, 1}, [2]int64{850, 840}, full)),
			step{CountAgain: "0"}},
		"there is none":                      {alarmed(ofSizes(full, full, [2]int64{850, 840})), step{CountAgain: "0"}},
		"the leader has none":                {alarmed(ofSizes([2]int64{850, 840}, full, full)), step{CountAgain: "0"}},
		"a single one has none":              {alarmed(ofSizes([2]int64{850, 840})), step{CountAgain: "0"}},
		"whether there is room is not known": {alarmed(ofSizes(full, full, [2]int64{0, 0})), step{CountAgain: "0"}},
	} {
		t.Run(name, func(t *testing.T) {
			wanted := 3
			if len(tt.members) == 1 {
				wanted = 1
			}
			if got := nextStep(tt.members, wanted); got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}
