#!/usr/bin/env bash
# Installs PostgreSQL, which the tests of external storage run beside the cluster, and prints
# where its programs are.
set -euo pipefail

programs() { ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1; }

if [[ ! -x "$(programs)/postgres" ]]; then
	{
		apt-get update -qq
		# No cluster of Debian's own is started.
		mkdir -p /etc/postgresql-common
		echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
		apt-get install -y -qq --no-install-recommends postgresql
	} >&2
fi
programs
