# Sourced by the other scripts: finds what they need, installs it as root,
# and otherwise ends with the line that does. Says what it does.
# shellcheck shell=sh

# An ordinary user's PATH often lacks these.
PATH="$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin"
export PATH

say() { printf '%s\n' "== $*" >&2; }

# need COMMAND PACKAGE: notes the Debian package of a command that is missing.
missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }

# need_hop: what the benchmark of a hop runs.
need_hop() {
    need haproxy haproxy
    need nginx nginx
    has_stream_module || missing="$missing libnginx-mod-stream"
    need h2load nghttp2-client
    need wrk wrk
    need sysctl procps
    need curl curl
}

# A part of nginx that Debian has in a package of its own.
has_stream_module() {
    for folder in /usr/lib/nginx /usr/lib64/nginx /etc/nginx; do
        [ -e "$folder/modules/ngx_stream_module.so" ] && return 0
    done
    return 1
}

# Takes nothing away: a mail server of the machine's own stays.
apt_install() {
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove "$@"
}

# without_starting COMMAND...: Debian starts a server that it installs (nginx on
# port 80, and others), unless this file says no. Only the programs are wanted.
without_starting() (
    says_no=/usr/sbin/policy-rc.d
    if [ ! -e "$says_no" ]; then
        trap 'rm -f "$says_no"' EXIT
        trap 'exit 1' INT TERM
        printf '#!/bin/sh\nexit 101\n' >"$says_no"
        chmod 755 "$says_no"
    fi
    "$@"
)

install_missing() {
    [ -z "$missing" ] && return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing$missing with apt-get"
        # shellcheck disable=SC2086
        without_starting apt_install $missing >&2
    else
        say "missing:$missing. Install with: sudo apt-get install$missing (or your system's packages of that name)"
        exit 1
    fi
}

find_rust() {
    if ! command -v cargo >/dev/null 2>&1; then
        say "Rust is missing. Install it from https://rustup.rs (the version is in rust-toolchain.toml)"
        exit 1
    fi
    cargo --version >/dev/null 2>&1 && return 0
    say "installing the Rust toolchain that rust-toolchain.toml names"
    rustup toolchain install
}

prepare() {
    need cc gcc
    need ip iproute2
    need nft nftables
    need unshare util-linux
    need nsenter util-linux
    need curl curl
    need python3 python3
    install_missing
    find_rust
}

# cargo_tool CRATE VERSION PROGRAM: prints the folder with the program of a
# crate. It is built once, outside of the checkout.
cargo_tool() {
    tools="${XDG_CACHE_HOME:-$HOME/.cache}/watchword/tools/$1-$2"
    if [ ! -x "$tools/bin/$3" ]; then
        say "building $1 $2 into $tools, once"
        CARGO_TARGET_DIR="$tools/target" cargo install --quiet --locked --root "$tools" --version "$2" "$1" >&2
        rm -rf "$tools/target"
    fi
    printf '%s\n' "$tools/bin"
}
