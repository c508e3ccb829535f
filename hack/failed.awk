#!/usr/bin/awk -f
# Shows of each test that failed the last it said, from the output of
# "go test -v": the place is hard to find in the log of half an hour. Long lines
# are cut, so that all failures fit on a screen, and what is there after the failure
# is left out, so that the reason is the last line.
/^=== (RUN|NAME|CONT|PAUSE) / { test = $3; next }
/^ *--- FAIL: / { failed[$3] = 1; order[++count] = $3; next }
/^ *--- (PASS|SKIP): / { next }
/: What is there after the failure:$/ { ended[test] = 1 }
test in ended { next }
{ said[test] = substr(said[test] "\n" substr($0, 1, 500), length(said[test]) - 4000) }
END {
	for (i = 1; i <= count; i++) {
		name = order[i]
		for (other in failed)
			# Its part says why.
			if (index(other, name "/") == 1) next_one[name] = 1
		if (!(name in next_one)) print "==> " name " failed:" said[name]
	}
}
