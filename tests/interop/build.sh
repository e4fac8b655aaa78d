# Builds what the suite runs; sourced by `run` and `kills`. Sets $build and $STATICFIRE_BIN.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
build=${CARGO_TARGET_DIR:-$root/target}/interop
old_release=4.9.8
new_release=5.4.0
# A developer may test a debug build; durability is what OK means in the server under test.
durability=${STATICFIRE_INTEROP_DURABILITY:-written}

# Without a tool the suite is skipped; in CI that is a failure.
skip() {
  echo "SKIPPED ($1)"
  [ "${CI:-}" = true ] && exit 1
  exit 0
}

need_java() {
  local tool
  for tool in java javac mvn; do
    command -v "$tool" >/dev/null || skip "$tool is not installed"
  done
}

# class_path NAME MAVEN-OPTIONS: asks Maven once, again after a change of the pom.
class_path() {
  local file=$build/classpath-$1
  [ -s "$file" ] && [ "$file" -nt "$here/java/pom.xml" ] && return
  mvn -q -B -f "$here/java/pom.xml" "${@:2}" org.apache.maven.plugins:maven-dependency-plugin:3.6.1:build-classpath \
    "-Dmdep.outputFile=$file" >"$build/maven.log" 2>&1 || { cat "$build/maven.log" >&2; return 1; }
}

# The same sources against each client release.
build_java() {
  local release
  mkdir -p "$build"
  class_path server -Pserver "-Drelease=$new_release" || return
  for release in "$new_release" "$old_release"; do
    class_path "$release" "-Drelease=$release" || return
    rm -rf "$build/classes-$release"
    javac -nowarn -proc:none -encoding UTF-8 -d "$build/classes-$release" -cp "$(cat "$build/classpath-$release")" \
      "$here"/java/interop/*.java 2>"$build/javac.log" || { cat "$build/javac.log" >&2; return 1; }
  done
  javac -nowarn -proc:none -encoding UTF-8 -d "$build/classes-server" \
    -cp "$build/classes-$new_release:$(cat "$build/classpath-server")" "$here"/java/server/*.java
}

build_python() {
  [ -x "$build/venv/bin/python" ] && "$build/venv/bin/python" -c 'import rocketmq' 2>/dev/null && return
  python3 -m venv "$build/venv" && "$build/venv/bin/pip" install --quiet rocketmq==0.4.4
}

build_staticfire() {
  [ -n "${STATICFIRE_BIN:-}" ] && return
  cargo build --quiet --release --manifest-path "$root/Cargo.toml" --bin staticfire || return
  STATICFIRE_BIN=${CARGO_TARGET_DIR:-$root/target}/release/staticfire
}

# A temporary directory for data, logs and the clients' homes; gone at the end unless something failed.
open_work() {
  work=$(mktemp -d "${TMPDIR:-/tmp}/staticfire-interop.XXXXXX")
  mkdir -p "$work/home/conf"
  # The old mqadmin wants a logging configuration and prints a stack trace without one.
  echo '<configuration><root level="OFF"/></configuration>' >"$work/home/conf/logback_tools.xml"
}

# client_java RELEASE CLASS ARGS: runs one of our Java programs against a client release.
client_java() {
  local release=$1
  shift
  java -Xmx768m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "-Duser.home=$work/home" "-Drocketmq.home.dir=$work/home" \
    "-Drocketmq.client.logRoot=$work/home/logs" -Drocketmq.client.logLevel=WARN \
    -cp "$build/classes-$release:$(cat "$build/classpath-$release")" "$@"
}
