# Directories change hands between staticfire and RocketMQ; sourced by `run`.

# official_store DIRECTORY RECEIPTS NUMBER_AT_LIMIT: RocketMQ's store reads a copy.
official_store() {
  rm -rf "$work/copy"
  copy_store "$1" "$work/copy" && free_port || return
  java -Xmx768m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "-Duser.home=$work/home" "-Drocketmq.home.dir=$work/home" \
    --add-opens=java.base/java.nio=ALL-UNNAMED --add-opens=java.base/sun.nio.ch=ALL-UNNAMED \
    -cp "$build/classes-server:$build/classes-$new_release:$(cat "$build/classpath-server")" \
    interop.OfficialStore "$work/copy" "$2" "$3" "$port"
}

# served_by ours|rocketmq DIRECTORY LABEL: a server starts on a directory that another one wrote, and consumers read it.
served_by() {
  if ! start_server "$1" "$2" 2>>"$work/clients.log"; then
    line FAIL "$3" 0 "the server did not start: $(tail -n 1 "$work/broker.log")"
  else
    suffix=-$3 java_scenarios "$new_release" 'consume: (classic pull|push)$|directory:' "$3 "
  fi
  stop_server
}

# read_by_rocketmq DATA RECEIPTS: what a stopped server left is read by RocketMQ's store and served by its broker.
read_by_rocketmq() {
  scenario "stopped-directory store: RocketMQ reads it" official_store "$1" "$2" "$messages"
  rm -rf "$work/copy"
  copy_store "$1" "$work/copy"
  served_by rocketmq "$work/copy" stopped-directory
}

# written_by_rocketmq DATA: the other direction.
written_by_rocketmq() {
  start_server rocketmq "$1" || { line FAIL official-directory 0 "RocketMQ did not start"; return; }
  java_scenarios "$new_release" 'send:|consume: push$' "official-directory, RocketMQ writes: "
  stop_server
  served_by "$server" "$1" official-directory
  [ "$server" = rocketmq ] || scenario "official-directory store verify" "$STATICFIRE_BIN" store verify "$1"
}

# official_name_server DATA: the broker under test registers at RocketMQ's name server.
official_name_server() {
  free_port; name_server_port=$port; free_port; broker_port=$port
  name_server=127.0.0.1:$name_server_port
  start_official_name_server "$name_server_port" || return
  if [ "$server" = ours ]; then
    command=("$STATICFIRE_BIN" broker --name-server "$name_server" --data "$1" --listen "127.0.0.1:$broker_port" --durability "$durability")
  else
    official_broker "$1" "$broker_port" "$name_server"
  fi
  mkdir -p "$1"
  launch broker "${command[@]}"
  if until_open "$broker_port" "$pid" broker; then
    java_scenarios "$new_release" 'send: (create|sync|new)|retry: dead|admin: (clusterList|topicRoute|topicList|deleteTopic)' "official-name-server "
  else
    line FAIL official-name-server 0 "the broker did not start: $(tail -n 1 "$work/broker.log")"
  fi
  stop_server
}
