# The broker killed under load, and what its directory is worth afterwards; sourced by `run`.

kills=${STATICFIRE_INTEROP_KILLS:-20}
stops=${STATICFIRE_INTEROP_STOPS:-5}
seed=${STATICFIRE_INTEROP_SEED:-$RANDOM$RANDOM}

# kill_under_load DATA RECEIPTS: leaves the directory as the last kill -9 left it.
kill_under_load() {
  local verify=true
  free_port; name_server_port=$port; free_port; broker_port=$port
  name_server=127.0.0.1:$name_server_port
  mkdir -p "$1"
  if [ "$server" = ours ]; then
    our_standalone "$1" "$broker_port" "$name_server_port"
    verify=$(printf '%q ' exec "$STATICFIRE_BIN" store verify "$1")
  else
    start_official_name_server "$name_server_port" || return
    official_broker "$1" "$broker_port" "$name_server"
  fi
  client_java "$new_release" interop.Kills "$name_server" "$broker_port" "$seed" "$kills" "$stops" "$2" \
    "$work/killed-broker.log" "$(printf '%q ' exec "${command[@]}")" "$verify" 2>>"$work/clients.log" | report
  [ "${PIPESTATUS[0]}" -eq 42 ] || line FAIL kills 0 "the program ended in the middle"
  stop official-name-server
  name_server_port=
}
