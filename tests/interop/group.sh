# A group of three whose leader is killed under load; sourced by `run`.

leader_kills=${STATICFIRE_INTEROP_LEADER_KILLS:-20}

# kill_leaders DATA: two name servers, three nodes that elect, and the Java program that kills whoever leads.
kill_leaders() {
  local node peers=() nodes=() name_servers=()
  for node in 1 2; do
    free_port
    launch "name-server-$node" "$STATICFIRE_BIN" name-server --listen "127.0.0.1:$port"
    until_open "$port" "$pid" "name-server-$node" || return
    name_servers+=("127.0.0.1:$port")
  done
  for node in 1 2 3; do
    free_port
    peers+=(--peer "$node=127.0.0.1:$port")
  done
  for node in 1 2 3; do
    free_port
    mkdir -p "$1/node-$node"
    nodes+=("$port" "$(printf '%q ' exec "$STATICFIRE_BIN" broker --data "$1/node-$node" --listen "127.0.0.1:$port" \
      --name-server "$(IFS=,; echo "${name_servers[*]}")" --node "$node" --failover raft "${peers[@]}")")
  done
  client_java "$new_release" interop.LeaderKills "$(IFS=';'; echo "${name_servers[*]}")" "$seed" "$leader_kills" \
    "$work/group-broker.log" "${nodes[@]}" 2>>"$work/clients.log" | report
  [ "${PIPESTATUS[0]}" -eq 42 ] || line FAIL "leader kills" 0 "the program ended in the middle"
  stop name-server-1
  stop name-server-2
  for node in 1 2 3; do
    scenario "leader kills: the store of node $node is sound" "$STATICFIRE_BIN" store verify "$1/node-$node"
  done
}
