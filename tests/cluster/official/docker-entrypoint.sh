#!/bin/bash
# What the official image's entry point does for the charts: the data folder with its mode, initdb with the password of
# a file, the scripts of /docker-entrypoint-initdb.d on a server that only this pod reaches, then the server.
set -eu
user=${POSTGRES_USER:-postgres}
mkdir -p "$PGDATA"
chmod 0700 "$PGDATA"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  eval "initdb --username='$user' --pwfile='$POSTGRES_PASSWORD_FILE' $POSTGRES_INITDB_ARGS"
  PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
  export PGPASSWORD PGHOST=/var/run/postgresql
  pg_ctl -D "$PGDATA" -w start \
    -o "$(printf '%q ' "${@:2}") -c listen_addresses='' -c unix_socket_directories=/var/run/postgresql"
  for script in /docker-entrypoint-initdb.d/*.sh; do
    # shellcheck disable=SC1090 # it is the chart's
    . "$script"
  done
  pg_ctl -D "$PGDATA" -m fast -w stop
  unset PGPASSWORD PGHOST
fi
exec "$@" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql
