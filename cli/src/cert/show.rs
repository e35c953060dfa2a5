//! Certificates on a terminal.

use comfy_table::{Table, presets};

use super::Found;
use super::describe::Described;
use crate::say;
use crate::time_left::duration;

/// Each certificate of each place, line by line.
pub(super) fn in_full(found: &[Found]) -> std::io::Result<()> {
    for (index, found) in found.iter().enumerate() {
        if index > 0 {
            say::out("")?;
        }
        let trust = match found.verified {
            Some(false) => ": as it was shown; nothing was verified",
            _ => "",
        };
        say::out(format!("{}{trust}", found.source))?;
        if let Some(error) = &found.error {
            say::out(format!("  {error}"))?;
        }
        let all = found.certificates.len();
        for (index, certificate) in found.certificates.iter().enumerate() {
            say::out(format!("certificate {} of {all}", index + 1))?;
            for (key, value) in lines(certificate) {
                say::out(format!("  {key:<10} {value}"))?;
            }
        }
    }
    Ok(())
}

fn lines(certificate: &Described) -> Vec<(&'static str, String)> {
    let or_none = |text: &str| match text {
        "" => "none".to_owned(),
        text => text.to_owned(),
    };
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let mut lines = Vec::new();
    if let Some(id) = &certificate.spiffe_id {
        lines.push(("SPIFFE ID", id.clone()));
    }
    if let Some(reason) = &certificate.no_svid_because {
        lines.push(("no SVID", reason.clone()));
    }
    let own = certificate.spiffe_id.iter().map(|id| format!("URI {id}"));
    if !own.eq(certificate.names.iter().cloned()) {
        lines.push(("names", or_none(&certificate.names.join(", "))));
    }
    let left = match certificate.seconds_left {
        seconds @ ..0 => duration(seconds),
        seconds => format!("{} left", duration(seconds)),
    };
    lines.extend([
        ("serial", certificate.serial.clone()),
        ("subject", or_none(&certificate.subject)),
        ("issuer", or_none(&certificate.issuer)),
        (
            "valid",
            format!("{} to {} ({left})", certificate.valid_from, certificate.valid_to),
        ),
        ("key", certificate.key.clone()),
        ("CA", yes(certificate.is_ca)),
    ]);
    if let Some(signed) = certificate.signed_by_next {
        lines.push(("signed by the next", yes(signed)));
    }
    lines
}

/// The leaf of each place.
pub(super) fn table(found: &[Found]) -> std::io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["REPLICA", "SPIFFE ID", "SERIAL", "ISSUER", "TIME LEFT", "KEY", "CHAIN"]);
    for found in found {
        table.add_row(match (found.certificates.first(), &found.error) {
            (Some(leaf), _) => [
                found.source.clone(),
                leaf.spiffe_id.clone().unwrap_or_default(),
                leaf.serial.clone(),
                leaf.issuer.clone(),
                duration(leaf.seconds_left),
                leaf.key.clone(),
                found.certificates.len().to_string(),
            ],
            (None, error) => {
                let reason = error.clone().unwrap_or_default();
                let [a, b, c, d, e] = [const { String::new() }; 5];
                [found.source.clone(), reason, a, b, c, d, e]
            }
        });
    }
    say::out(table.trim_fmt())
}
