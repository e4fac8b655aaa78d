# Starts and stops the servers under test; sourced by `run` and `kills`.
#
# A server is staticfire ("ours") or Apache RocketMQ ("rocketmq"). Each has one data directory, loopback ports that were
# free a moment ago, and a log file. Only processes started here are ever signalled, by their id.
#
# Uses: $work (temporary directory), $build (class paths, classes), $STATICFIRE_BIN.

# pids of servers that run now, for the trap
declare -A running=()

say() { printf '%s\n' "$*"; }

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Sets $port to a port that nobody listens on; its neighbours port-2 (VIP) and port+1 (HA) are free as well.
free_port() {
  local tries
  for tries in {1..200}; do
    port=$((15000 + (RANDOM * 32768 + RANDOM) % 15000))
    port_open $((port - 2)) || port_open "$port" || port_open $((port + 1)) || return 0
  done
  say "no free port found" >&2
  return 1
}

# until_open PORT PID WHAT: waits until the process listens; fails when it ends or 60 s pass.
until_open() {
  local turn
  for turn in {1..1200}; do
    port_open "$1" && return 0
    kill -0 "$2" 2>/dev/null || break
    sleep 0.05
  done
  say "$3 does not listen on port $1; its log ends with:" >&2
  tail -n 20 "$work/$3.log" >&2
  return 1
}

# launch NAME COMMAND...: starts a server in the background, log in $work/NAME.log, its id in $pid.
launch() {
  local name=$1
  shift
  "$@" >>"$work/$name.log" 2>&1 </dev/null &
  pid=$!
  running[$name]=$pid
}

# stop NAME [SIGNAL]: ends one server and waits for it; $status is its exit status.
stop() {
  local pid=${running[$1]:-}
  [ -n "$pid" ] || return 0
  unset "running[$1]"
  kill "-${2:-TERM}" "$pid" 2>/dev/null
  wait "$pid" 2>/dev/null
  status=$?
}

stop_all() {
  local name
  for name in "${!running[@]}"; do stop "$name" KILL; done
}

# java_server HEAP CLASS ARGS: the words of an official server's command line, in the array $command.
java_server() {
  command=(java "-Xmx$1" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "-Duser.home=$work/home" "-Drocketmq.home.dir=$work/home"
    --add-opens=java.base/java.nio=ALL-UNNAMED --add-opens=java.base/sun.nio.ch=ALL-UNNAMED
    -cp "$(cat "$build/classpath-server")" "${@:2}")
}

# Official name server on $1.
start_official_name_server() {
  printf 'listenPort=%s\n' "$1" >"$work/name-server-$1.conf"
  java_server 256m org.apache.rocketmq.namesrv.NamesrvStartup -c "$work/name-server-$1.conf"
  launch official-name-server "${command[@]}"
  until_open "$1" "$pid" official-name-server
}

# official_broker DATA PORT NAME_SERVER: the command of an official broker, in the array $command.
official_broker() {
  cat >"$work/broker-$2.conf" <<CONF
brokerClusterName=DefaultCluster
brokerName=broker-a
brokerId=0
brokerIP1=127.0.0.1
listenPort=$2
namesrvAddr=$3
storePathRootDir=$1
storePathCommitLog=$1/commitlog
autoCreateTopicEnable=true
waitTimeMillsInSendQueue=5000
CONF
  java_server 1g -XX:MaxDirectMemorySize=1g org.apache.rocketmq.broker.BrokerStartup -c "$work/broker-$2.conf"
}

# our_broker DATA PORT NAME_SERVER_PORT: our standalone command, in the array $command.
our_standalone() {
  command=("$STATICFIRE_BIN" standalone --data "$1" --listen "127.0.0.1:$2" --name-server-listen "127.0.0.1:$3"
    --durability "$durability")
}

# start_server ours|rocketmq DATA: name server and broker; sets $name_server and $broker. Ports are kept for a restart.
start_server() {
  mkdir -p "$2"
  [ -n "${name_server_port:-}" ] || { free_port; name_server_port=$port; free_port; broker_port=$port; }
  name_server=127.0.0.1:$name_server_port
  broker=127.0.0.1:$broker_port
  if [ "$1" = ours ]; then
    our_standalone "$2" "$broker_port" "$name_server_port"
    launch broker "${command[@]}"
  else
    start_official_name_server "$name_server_port" || return
    official_broker "$2" "$broker_port" "$name_server"
    launch broker "${command[@]}"
  fi
  until_open "$name_server_port" "$pid" broker && until_open "$broker_port" "$pid" broker
}

# stop_server [SIGNAL]: the broker by SIGNAL, an official name server beside it always by TERM.
stop_server() {
  stop broker "${1:-TERM}"
  local broker_status=$status
  stop official-name-server TERM
  status=$broker_status
}

# copy_store FROM TO: a copy that keeps holes (segments are 1 GiB).
copy_store() { cp -a --sparse=always "$1" "$2"; }
