#!/usr/bin/env bash
# Puts the `prometheus` binary on a Debian machine, from Debian's own package, without its service being started.
set -euo pipefail

say() { printf 'prometheus: %s\n' "$*" >&2; }
if command -v prometheus >/dev/null; then exit 0; fi
if ! command -v apt-get >/dev/null || [[ "$(id -u)" != 0 ]]; then
    say "error: no 'prometheus' on PATH. Install it (Debian, Ubuntu: sudo apt-get install prometheus; macOS: brew install prometheus)"
    exit 1
fi

policy=/usr/sbin/policy-rc.d # Debian's switch for «install, but start nothing»; left alone where one exists
if [[ ! -e "$policy" ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y -qq --no-install-recommends prometheus; }
say "installing Debian's package"
log="$(mktemp)"
if ! { install || { apt-get update -qq && install; }; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    say "error: apt-get could not install it (all of its output: $log)"
    exit 1
fi
rm -f "$log"
