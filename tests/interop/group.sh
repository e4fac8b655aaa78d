# Groups of three nodes: read from slaves, and their leader killed under load; sourced by `run`.

leader_kills=${STATICFIRE_INTEROP_LEADER_KILLS:-20}

# group DATA OPTIONS...: two name servers, started, and how to start three nodes that elect, in the array $nodes: port and command.
group() {
  local data=$1 node peers=()
  shift
  nodes=() name_servers=()
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
    mkdir -p "$data/node-$node"
    nodes+=("$port" "$(printf '%q ' exec "$STATICFIRE_BIN" broker --data "$data/node-$node" --listen "127.0.0.1:$port" \
      --name-server "$(IFS=,; echo "${name_servers[*]}")" --node "$node" --failover raft "${peers[@]}" "$@")")
  done
}

# with_group LABEL CLASS DATA ARGUMENTS...: the Java program that uses the nodes, and what they leave.
with_group() {
  client_java "$new_release" "$2" "$(IFS=';'; echo "${name_servers[*]}")" "$work/group-broker.log" "${@:4}" "${nodes[@]}" \
    2>>"$work/clients.log" | report
  [ "${PIPESTATUS[0]}" -eq 42 ] || line FAIL "$1" 0 "the program ended in the middle"
  stop name-server-1
  stop name-server-2
  local node
  for node in 1 2 3; do
    scenario "$1: the store of node $node is sound" "$STATICFIRE_BIN" store verify "$3/node-$node"
  done
}

# kill_leaders DATA
kill_leaders() {
  group "$1" || return
  with_group "leader kills" interop.LeaderKills "$1" "$seed" "$leader_kills"
}

# read_from_slaves DATA: a leader that is always busy sends consumers to its slaves.
read_from_slaves() {
  group "$1" --busy-reading-bytes 0 || return
  with_group "slaves" interop.SlaveReads "$1"
}
