# For the scripts that print the path of a program of the tests' which is built
# here once, with Go, from a folder of tests/ that pins its version. To source.

say() { printf '%s\n' "== $*" >&2; }

# pinned FOLDER MODULE: the version of MODULE in FOLDER's go.mod.
pinned() {
    sed -n "s|^\(require \)\{0,1\}[[:space:]]*$2 v\([^ ]*\).*|\2|p" "$1/go.mod"
}

# built NAME FOLDER MODULE HOW-LONG ARGUMENTS…: prints the path of NAME, which
# `go build ARGUMENTS` in FOLDER makes; kept by the version of MODULE. A last
# argument ./PACKAGE is source of our own: kept by what that says, too.
built() {
    name=$1 folder=$2 module=$3 how_long=$4
    shift 4
    version=$(pinned "$folder" "$module")
    [ -n "$version" ] || { say "$folder/go.mod names no version of $module"; exit 1; }
    for package in "$@"; do :; done
    case "$package" in
        ./*) version="$version-$(cat "$folder/$package"/*.go | sha256sum | cut -c 1-12)" ;;
    esac
    tools="${XDG_CACHE_HOME:-$HOME/.cache}/watchword/tools"
    program="$tools/$name-$version"
    if [ ! -x "$program" ]; then
        PATH="$PATH:/usr/local/go/bin"
        if ! command -v go >/dev/null 2>&1; then
            say "$name is missing, and so is Go, which would build it. Install Go 1.26 or newer"
            exit 1
        fi
        say "building $name $version into $tools, once: about $how_long"
        mkdir -p "$tools"
        unfinished="$program.$$"
        trap 'rm -f "$unfinished"' EXIT
        (cd "$folder" && CGO_ENABLED=0 GOFLAGS="-p=1 -buildvcs=false" \
            nice -n 19 go build -trimpath -o "$unfinished" "$@") >&2
        mv "$unfinished" "$program"
        trap - EXIT
    fi
    printf '%s\n' "$program"
}
