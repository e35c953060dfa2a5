//! What `--help` shows of each command in use. A test parses every line, and
//! docs/commands.md is held against the same commands.

pub(crate) const WATCHWORD: &str = "\
Examples:
  watchword doctor                              # can a mesh start here?
  watchword demo                                # a whole mesh at work
  watchword up mesh.yaml                        # ctrl-C takes everything down
  watchword exec web -- curl http://orders:8080/
  watchword status --watch
  watchword policy explain --from spiffe://example.org/web --to spiffe://example.org/orders --port 8080 policies";

pub(crate) const DOCTOR: &str = "\
Examples:
  watchword doctor
  watchword doctor --mesh-file mesh.yaml        # also its policies, and the Vault that it names
  watchword doctor -o json";

pub(crate) const DEMO: &str = "\
Examples:
  watchword demo
  watchword demo --vault                        # VAULT_BIN, or the `vault` of the PATH, signs
  watchword demo --vault=/opt/vault/bin/vault
  watchword demo --folder my-demo               # writes its files there; change them, and run it again
  watchword demo --json

Exit status: 0 when everything is as promised, 1 when something is not.";

pub(crate) const UP: &str = "\
Examples:
  watchword up mesh.yaml
  watchword up examples/demo/mesh.yaml

WATCHWORD_LOG=info shows every call; RUST_BACKTRACE, TZ and PATH reach the daemons as well.";

pub(crate) const EXEC: &str = "\
Examples:
  watchword exec web -- curl http://orders:8080/
  watchword exec orders-2 -- sh                 # in a replica's network, as its user
  watchword exec --mesh shop web -- env

Exit status: the command's own; 125 when it can't be brought there, 126 when it can't be executed, 127 when it is not
there.";

pub(crate) const STATUS: &str = "\
Examples:
  watchword status
  watchword status --watch                      # drawn again each second
  watchword status --mesh shop -o json
  watchword status --admin /run/watchword/admin.sock";

pub(crate) const BUNDLE_EXPORT: &str = "\
Examples:
  watchword bundle export > partner.pem
  watchword bundle export --format jwks --out bundle.json
  watchword bundle export --admin /run/watchword/admin.sock";

pub(crate) const CERT_VIEW: &str = "\
Examples:
  watchword cert view                           # all services of the mesh
  watchword cert view orders-2
  watchword cert view root.pem
  watchword cert view vault.example.org:8200    # shows what is there; nothing is verified
  watchword cert view orders -o json";

pub(crate) const POLICY_CHECK: &str = "\
Examples:
  watchword policy check policies
  watchword policy check --mesh-file mesh.yaml policies";

pub(crate) const POLICY_EXPLAIN: &str = "\
Examples:
  watchword policy explain --from spiffe://example.org/web --to spiffe://example.org/orders --port 8080 policies
  watchword policy explain --from spiffe://example.org/web --to spiffe://example.org/orders --port 8080 --method POST --path /orders --host orders --header x-tenant=blue --mesh-file mesh.yaml policies
  watchword policy explain --from spiffe://example.org/billing --to spiffe://example.org/pay --port 9090 --grpc shop.Payments/Charge policies";

pub(crate) const POLICY_TEST: &str = "\
Examples:
  watchword policy test cases.yaml policies
  watchword policy test --mesh-file mesh.yaml -o json cases.yaml policies";

pub(crate) const TOKEN_CREATE: &str = "\
Examples:
  watchword token create --id spiffe://example.org/batch
  watchword token create --admin /run/watchword/admin.sock --id spiffe://example.org/batch > token";

pub(crate) const BENCH: &str = "\
Examples:
  watchword bench
  watchword bench -o json

Starts a mesh of its own, which ends with it. Numbers are medians of rounds that alternate with plain TCP.";

pub(crate) const COMPLETIONS: &str = "\
Examples:
  watchword completions bash > /etc/bash_completion.d/watchword
  watchword completions zsh > /usr/share/zsh/site-functions/_watchword
  watchword completions fish > ~/.config/fish/completions/watchword.fish";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::{Command, CommandFactory as _, Parser as _};

    use crate::Cli;

    const PAGE: &str = include_str!("../../docs/commands.md");

    /// The words of a line, without what a shell does with them.
    fn words(line: &str) -> Vec<&str> {
        let line = line.split(" #").next().unwrap_or_default();
        let line = line.split(" > ").next().unwrap_or_default();
        line.split_whitespace().collect()
    }

    fn parses(line: &str) {
        if let Err(error) = Cli::try_parse_from(words(line)) {
            panic!("`{line}` does not parse: {error}");
        }
    }

    /// Every command that does something, by its whole name, with its help.
    fn leaves(command: &Command, path: &str) -> Vec<(String, String)> {
        let name = format!("{path}{}", command.get_name());
        let visible: Vec<_> = command.get_subcommands().filter(|it| !it.is_hide_set()).collect();
        if visible.is_empty() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            return vec![(name, help)];
        }
        visible
            .into_iter()
            .flat_map(|inner| leaves(inner, &format!("{name} ")))
            .collect()
    }

    fn examples(help: &str) -> impl Iterator<Item = &str> {
        help.lines()
            .filter_map(|line| line.strip_prefix("  "))
            .filter(|line| line.starts_with("watchword "))
    }

    #[test]
    fn the_help_of_each_command_has_examples_that_parse() {
        let all = leaves(&Cli::command(), "");
        assert!(all.len() > 8, "{all:?}");
        for (name, help) in &all {
            let own: Vec<_> = examples(help).collect();
            assert!(
                own.iter().any(|line| line.starts_with(name)),
                "`{name} --help` shows no example of itself"
            );
            own.into_iter().for_each(parses);
        }
        examples(super::WATCHWORD).for_each(parses);
    }

    #[test]
    fn the_page_of_commands_has_each_with_examples_that_parse() {
        for (name, _) in leaves(&Cli::command(), "") {
            assert!(
                PAGE.lines().any(|line| line == format!("## {name}")),
                "docs/commands.md has no section `## {name}`"
            );
        }
        let shown: Vec<_> = PAGE.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
        assert!(shown.len() > 20, "{shown:?}");
        for line in shown.into_iter().filter(|line| line.starts_with("watchword ")) {
            parses(line);
        }
    }

    #[test]
    fn completions_know_every_command_and_nothing_hidden() {
        for shell in ["bash", "zsh", "fish"] {
            let script = crate::completions::script(shell.parse().unwrap());
            for name in ["doctor", "explain", "--mesh-file"] {
                let name = if shell == "fish" {
                    name.trim_start_matches("--")
                } else {
                    name
                };
                assert!(script.contains(name), "{shell}: {name}");
            }
            assert!(!script.contains("supervise"), "{shell}");
        }
    }
}
