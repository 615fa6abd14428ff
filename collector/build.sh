#!/usr/bin/env bash
# Builds collector/.build/otelcol-stormproof from builder.yaml, once: does nothing when that was already done for the
# same manifest and lock. The last line printed is the path of the binary.
#   STORMPROOF_COLLECTOR_CACHE=DIR   build there instead of collector/.build
set -euo pipefail

readonly BUILDER_VERSION=v0.165.0 # go.opentelemetry.io/collector/cmd/builder
readonly GO_MINOR=26              # that builder needs Go 1.26
readonly NAME=otelcol-stormproof

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cache="${STORMPROOF_COLLECTOR_CACHE:-$here/.build}"
mkdir -p "$cache/bin" "$cache/src"
cache="$(cd "$cache" && pwd)"
[[ -e "$cache/.gitignore" ]] || printf '*\n' >"$cache/.gitignore"
stamp="$cache/$NAME.stamp"

say() { printf 'collector: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
sha256() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -d' ' -f1; }

if command -v flock >/dev/null; then # two test runs may come here at once
    exec 9>"$cache/.lock"
    flock -n 9 || { say "another build is running; waiting for it"; flock 9; }
fi

wanted="$({ printf '%s %s\n' "$BUILDER_VERSION" "$(uname -sm)"; cat "$here/builder.yaml" "$here/lock/go.mod" "$here/lock/go.sum"; } | sha256)"
if [[ -x "$cache/$NAME" && -f "$stamp" && "$(<"$stamp")" == "$wanted" ]]; then
    say "already built for this manifest"
    printf '%s\n' "$cache/$NAME"
    exit 0
fi

command -v go >/dev/null || die "no 'go' on PATH; building the collector needs Go 1.$GO_MINOR or newer"
export GOTOOLCHAIN=local CGO_ENABLED=0
unset GOOS GOARCH # the binary is for this machine
version="$(go env GOVERSION)" # go1.26.8
[[ "$version" =~ ^go1\.([0-9]+) ]] || die "cannot tell the version of Go from '$version'"
((BASH_REMATCH[1] >= GO_MINOR)) || die "found $version; building the collector needs Go 1.$GO_MINOR or newer"

step() { # step TITLE COMMAND...: runs it with its output in a log, a sign of life every 30 s, the log's end on failure
    local title="$1" log="$cache/build.log" began=$SECONDS status=0
    shift
    say "$title"
    (while sleep 30; do say "    ... $((SECONDS - began)) s"; done) 9>&- &
    pulse=$!
    "$@" >"$log" 2>&1 9>&- || status=$?
    kill "$pulse" 2>/dev/null || true
    if ((status)); then
        tail -n 30 "$log" >&2
        die "$title: failed (status $status; all of it in $log)"
    fi
    say "    done in $((SECONDS - began)) s"
}
trap '[[ -z "${pulse:-}" ]] || kill "$pulse" 2>/dev/null || true' EXIT

compile() { (cd "$cache" && bin/builder --config "$here/builder.yaml" --skip-get-modules --ldflags '-s -w'); }

say "building $NAME with $version; the first time takes some minutes"
if [[ "$("$cache/bin/builder" version 2>/dev/null || true)" != *"$BUILDER_VERSION" ]]; then
    GOBIN="$cache/bin" step "1/2 the builder, $BUILDER_VERSION" go install "go.opentelemetry.io/collector/cmd/builder@$BUILDER_VERSION"
fi
cp "$here/lock/go.mod" "$here/lock/go.sum" "$cache/src/"
rm -f "$stamp"
step "2/2 modules and binary" compile
mv -f "$cache/src/$NAME" "$cache/$NAME"
printf '%s\n' "$wanted" >"$stamp"
say "built $NAME, $(($(wc -c <"$cache/$NAME") / 1000000)) MB"
printf '%s\n' "$cache/$NAME"
