# The C++ client through its Python wheel; sourced by `run`.

python_client() {
  HOME=$work/home "$build/venv/bin/python" -B "$here/python/client.py" "$name_server" "$messages" "$server" \
    2>>"$work/clients.log" | report
  [ "${PIPESTATUS[0]}" -eq 0 ] || line FAIL python 0 "the program ended in the middle"
}
