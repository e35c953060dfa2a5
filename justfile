# What CI does, by name. `just` is a convenience: each recipe is one line.

# Builds everything.
build:
    cargo build --release --workspace --all-targets

# Formatting and lints, as CI wants them.
check:
    cargo fmt --check
    cargo clippy --release --workspace --all-targets -- -D warnings
    cargo clippy --release -p watchword-control-plane --test kubernetes -- -D warnings
    cargo deny check licenses bans sources

# All tests; as an ordinary user add --no-root.
test *ARGS:
    scripts/test {{ARGS}}

# Logins to Vault with a real Kubernetes API server, which is built once.
test-kubernetes:
    scripts/test-kubernetes

# A whole mesh at work, with proof for each claim.
demo *ARGS:
    scripts/demo {{ARGS}}

# The micro-benchmarks.
bench:
    cargo bench -p watchword-benches

# A hop against Envoy, HAProxy and nginx.
bench-hop *ARGS:
    scripts/bench-hop {{ARGS}}

# Lines of production code by file, largest first.
size:
    git ls-files '*.rs' | grep -vE 'tests?(/|\.rs$)|_tests\.rs$|^(tests|benches)/' | xargs wc -l | sort -rn | head -30
