# Programs in Python, the C++ client through its wheel among them; sourced by `run`.

python_client() {
  HOME=$work/home "$build/venv/bin/python" -B "$here/python/client.py" "$name_server" "$messages" "$server" \
    2>>"$work/clients.log" | report
  [ "${PIPESTATUS[0]}" -eq 0 ] || line FAIL python 0 "the program ended in the middle"
}

# How soon the release binary serves, and how small it is then.
start_and_size() {
  python3 -B "$here/python/start.py" "$STATICFIRE_BIN" "$work/starts" 2>>"$work/clients.log" | report
  [ "${PIPESTATUS[0]}" -eq 0 ] || line FAIL start 0 "the program ended in the middle"
}
