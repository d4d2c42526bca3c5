#!/usr/bin/env bash
# Make .venv with the locked dependencies. Names everything that is missing at once.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

python=${PYTHON:-}
for candidate in python3.11 python3.12 python3.13 python3; do
    [ -n "$python" ] && break
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
        python=$candidate
    fi
done
[ -n "$python" ] || fail "no Python 3.11, 3.12 or 3.13 was found" "apt-get install python3 python3-venv"

missing=()
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=("python3-venv")
command -v objdump >/dev/null || missing+=("binutils")
# PyInstaller freezes the shared library of Python; Debian has it in a package of its own.
library=$("$python" -c '
import pathlib, sysconfig
get = sysconfig.get_config_var
name, multiarch = "libpython" + get("VERSION"), get("MULTIARCH")
folders = [get("LIBDIR") or "", f"/usr/lib/{multiarch}", "/usr/lib64"]
found = any(pathlib.Path(folder, name + ".so.1.0").exists() for folder in folders)
print("" if found else name)
')
[ -z "$library" ] || missing+=("$library")
if [ ${#missing[@]} -gt 0 ]; then
    fail "system packages are missing: ${missing[*]}" "apt-get install ${missing[*]}"
fi

echo "Creating .venv with $("$python" --version) and installing the locked dependencies (some minutes) ..."
[ -x .venv/bin/python ] || "$python" -m venv .venv
install() { .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$@"; }
locked() { install --require-hashes --only-binary :all: --requirement "locks/$1"; }
# Side by side: no package is in both files, and unpacking keeps one processor busy.
locked host.txt &
torch=0
locked torch-cpu.txt 2>/dev/null || locked torch.txt || torch=$?
wait $!
[ "$torch" = 0 ]
install --no-build-isolation --editable .
touch .venv/ready
echo "Ready."
