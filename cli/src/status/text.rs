//! A status as people read it: a line of the mesh, what is amiss, and a table of
//! its sidecars.

use comfy_table::{Table, presets};

use super::{Replica, Status};
use crate::sidecar_client::Denial;
use crate::time_left::duration;

/// For people.
pub(super) fn text(status: &Status) -> String {
    let mut lines = vec![headline(status)];
    let plane = &status.control_plane;
    lines.extend(
        plane
            .frozen
            .iter()
            .map(|id| format!("frozen, since an old certificate of it was used: {id}")),
    );
    lines.extend(plane.rejected.iter().cloned());
    if !status.replicas.is_empty() {
        lines.push(table(&status.replicas));
    }
    for replica in &status.replicas {
        if let Some(reason) = &replica.renewal_trouble {
            let left = replica.seconds_left.map_or_else(|| "-".to_owned(), duration);
            lines.push(format!(
                "{} gets no new certificate ({left} left): {reason}",
                replica.replica
            ));
        }
    }
    lines.join("\n")
}

fn headline(status: &Status) -> String {
    let plane = &status.control_plane;
    if let Some(error) = &plane.error {
        return error.clone();
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (domain, authority) = (text(&plane.trust_domain), text(&plane.authority));
    let mesh = status
        .mesh
        .as_ref()
        .map_or_else(String::new, |name| format!("mesh {name}, "));
    format!(
        "{mesh}trust domain {domain}, {authority} authority, epoch {}, {} sidecars connected",
        plane.epoch.unwrap_or_default(),
        plane.connected.unwrap_or_default()
    )
}

fn table(replicas: &[Replica]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "SERVICE",
        "REPLICA",
        "SPIFFE ID",
        "GENERATION",
        "TIME LEFT",
        "TUNNELS",
        "CONNECTIONS",
        "LAST DENIAL",
    ]);
    for replica in replicas {
        table.add_row(row(replica));
    }
    table.trim_fmt()
}

fn row(replica: &Replica) -> [String; 8] {
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let last = match (&replica.error, &replica.last_denial) {
        (Some(error), _) => error.clone(),
        (None, Some(denial)) => sentence(denial),
        (None, None) => "-".to_owned(),
    };
    [
        replica.service.clone(),
        replica.replica.clone(),
        replica.spiffe_id.clone(),
        number(replica.generation),
        replica.seconds_left.map_or_else(|| "-".to_owned(), duration),
        number(replica.tunnels),
        number(replica.connections),
        last,
    ]
}

fn sentence(denial: &Denial) -> String {
    // Nobody is known where nobody was reached.
    let address = denial.address.map(|address| address.to_string());
    let peer = denial
        .peer
        .as_deref()
        .filter(|peer| !peer.is_empty())
        .or(address.as_deref());
    let peer = peer.unwrap_or("somebody unknown");
    let side = match denial.direction.as_str() {
        "outbound" => "to",
        _ => "from",
    };
    let named = |name: &'_ Option<String>| name.clone().filter(|name| !name.is_empty());
    let by = match (named(&denial.policy), named(&denial.rule)) {
        (Some(policy), Some(rule)) => format!(" by {policy}/{rule}"),
        (Some(policy), None) => format!(" by {policy}"),
        _ => String::new(),
    };
    let request = named(&denial.request).map_or_else(String::new, |request| format!(", {request}"));
    let audit = if denial.audit { "audit: " } else { "" };
    format!(
        "{audit}{side} {peer}, port {}{request}: {}{by}",
        denial.port, denial.reason
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use super::*;
    use crate::status::ControlPlane;

    fn replica() -> Replica {
        Replica {
            service: "orders".to_owned(),
            replica: "orders-1".to_owned(),
            spiffe_id: "spiffe://example.org/orders".to_owned(),
            generation: Some(3),
            serial: Some("0aff".to_owned()),
            not_after: Some(1_000),
            seconds_left: Some(723),
            renewal_trouble: None,
            tunnels: Some(2),
            connections: Some(5),
            last_denial: None,
            error: None,
        }
    }

    #[test]
    fn a_certificate_that_is_not_renewed_is_told_below_the_table() {
        let mut status = Status {
            mesh: Some("shop".to_owned()),
            control_plane: ControlPlane::default(),
            replicas: vec![replica()],
        };
        assert_eq!(text(&status).lines().count(), 3);
        let row: Vec<_> = text(&status)
            .lines()
            .nth(2)
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        assert_eq!(row[3..], ["3", "12m", "3s", "2", "5", "-"]);
        status
            .replicas
            .iter_mut()
            .for_each(|it| it.renewal_trouble = Some("Vault is sealed".to_owned()));
        let last = "orders-1 gets no new certificate (12m 3s left): Vault is sealed";
        assert_eq!(text(&status).lines().last(), Some(last));
    }

    #[test]
    fn a_denial_names_its_rule() {
        let denial = Denial {
            time: serde_json::json!(0),
            direction: "inbound".to_owned(),
            peer: Some("spiffe://example.org/lab".to_owned()),
            address: None,
            port: 8080,
            request: None,
            policy: Some("orders".to_owned()),
            rule: Some("not from the lab".to_owned()),
            reason: "deny-rule".to_owned(),
            audit: false,
        };
        let expected = "from spiffe://example.org/lab, port 8080: deny-rule by orders/not from the lab";
        assert_eq!(sentence(&denial), expected);
        let outside = Denial {
            direction: "outbound".to_owned(),
            peer: Some(String::new()),
            address: Some(std::net::Ipv4Addr::new(192, 0, 2, 1).into()),
            policy: None,
            reason: "egress".to_owned(),
            ..denial.clone()
        };
        assert_eq!(sentence(&outside), "to 192.0.2.1, port 8080: egress");
        let request = Denial {
            request: Some("GET /admin".to_owned()),
            rule: Some(String::new()),
            reason: "no-allow-rule".to_owned(),
            audit: true,
            ..denial
        };
        let expected = "audit: from spiffe://example.org/lab, port 8080, GET /admin: no-allow-rule by orders";
        assert_eq!(sentence(&request), expected);
    }
}
