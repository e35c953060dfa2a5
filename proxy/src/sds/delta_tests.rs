//! A stream whose responses have what has changed: what is sent, and when.
#![allow(clippy::unwrap_used)]

#[path = "delta_client_tests.rs"]
mod client;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use watchword_proto::sds::ErrorDetail;

use super::*;
use crate::sds::refusal::{MAX_NAME, MAX_NAMES};
use crate::testing::{Root, bundle, ders, domain, held, id, material};
use crate::workloads::Held;

const WEB: &str = "spiffe://example.org/web";
const OWN: &str = "spiffe://example.org";
const PARTNER: &str = "spiffe://partner.example";

/// What there may be at one moment or another.
struct Store {
    own: Root,
    partners: [Root; 2],
    webs: Vec<Arc<Held>>,
}

static STORE: LazyLock<Store> = LazyLock::new(|| {
    let own = Root::new();
    Store {
        webs: (0..3).map(|_| held(&own, &id("/web"))).collect(),
        partners: [Root::new(), Root::new()],
        own,
    }
});

/// The SVID of this number, with this root of the partner's or none.
fn moment(number: usize, partner: Option<usize>) -> Material {
    let mut all = bundle(&[&STORE.own]);
    if let Some(partner) = partner {
        let roots = ders(&[&STORE.partners[partner]]);
        all = all.with(domain("partner.example"), roots).unwrap();
    }
    material(&[&STORE.webs[number]], all)
}

fn texts(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn subscribing(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_subscribe: texts(names),
        type_url: SECRET_TYPE.into(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn unsubscribing(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_unsubscribe: texts(names),
        ..subscribing(&[])
    }
}

fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        response_nonce: response.nonce.clone(),
        ..subscribing(&[])
    }
}

fn nack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        error_detail: Some(ErrorDetail {
            code: 3,
            message: "bad key".into(),
        }),
        ..ack(response)
    }
}

fn rejected(is_news: bool) -> Said {
    Said::Rejected {
        reason: "bad key".into(),
        is_news,
    }
}

fn version(name: &str, material: &Material) -> Option<String> {
    find(name, material).map(|named| named.version)
}

/// The names of what is sent, which must be the newest, and of what is said to
/// be gone.
fn sent(stream: &mut Delta, material: &Material) -> (Vec<String>, Vec<String>) {
    let response = stream.respond(material).unwrap().unwrap();
    assert_eq!(response.type_url, SECRET_TYPE);
    for resource in &response.resources {
        let named = find(&resource.name, material).unwrap();
        assert_eq!(resource.version, named.version);
        assert_eq!(resource.resource, Some(named.secret.into()));
    }
    let names = response.resources.into_iter().map(|resource| resource.name);
    (names.collect(), response.removed_resources)
}

fn is_quiet(stream: &mut Delta, material: &Material) -> bool {
    stream.respond(material).unwrap().is_none()
}

/// A stream that began so, and was answered.
fn begun(names: &[&str], material: &Material) -> Delta {
    let mut stream = Delta::default();
    assert_eq!(stream.request(subscribing(names)).unwrap(), Said::Fine);
    stream.respond(material).unwrap().unwrap();
    stream
}

fn pair(resources: &[&str], removed: &[&str]) -> (Vec<String>, Vec<String>) {
    (texts(resources), texts(removed))
}

#[test]
fn nothing_is_sent_before_somebody_asks() {
    assert!(is_quiet(&mut Delta::default(), &moment(0, None)));
}

#[test]
fn what_is_subscribed_to_is_sent_once_and_then_what_has_changed() {
    let mut stream = Delta::default();
    stream.request(subscribing(&["default", "ROOTCA", PARTNER])).unwrap();
    let now = moment(0, Some(0));
    assert_eq!(sent(&mut stream, &now), pair(&["ROOTCA", "default", PARTNER], &[]));
    assert!(is_quiet(&mut stream, &now));
    assert_eq!(sent(&mut stream, &moment(1, Some(0))), pair(&["default"], &[]));
    assert_eq!(sent(&mut stream, &moment(1, Some(1))), pair(&[PARTNER], &[]));
    stream.request(subscribing(&["ALL"])).unwrap();
    assert_eq!(sent(&mut stream, &moment(1, Some(1))), pair(&["ALL"], &[]));
    stream.request(unsubscribing(&["default"])).unwrap();
    assert!(is_quiet(&mut stream, &moment(2, Some(1))));
}

#[test]
fn what_is_asked_for_again_is_told_again_even_that_there_is_none() {
    let now = moment(0, None);
    let mut stream = begun(&["default", "ROOTCA", PARTNER], &now);
    stream.request(subscribing(&["default"])).unwrap();
    assert_eq!(sent(&mut stream, &now), pair(&["default"], &[]));
    stream.request(subscribing(&[PARTNER])).unwrap();
    assert_eq!(sent(&mut stream, &now), pair(&[], &[PARTNER]));
    // In place of what was unsubscribed from, too.
    stream.request(unsubscribing(&["ROOTCA"])).unwrap();
    stream.request(subscribing(&["ROOTCA"])).unwrap();
    assert_eq!(sent(&mut stream, &now), pair(&["ROOTCA"], &[]));
    assert!(is_quiet(&mut stream, &now));
}

#[test]
fn what_goes_is_said_once_and_is_sent_when_it_is_back_as_it_was() {
    let mut stream = begun(&["default", PARTNER], &moment(0, Some(0)));
    for _ in 0..3 {
        assert_eq!(sent(&mut stream, &moment(0, None)), pair(&[], &[PARTNER]));
        assert!(is_quiet(&mut stream, &moment(0, None)));
        assert_eq!(sent(&mut stream, &moment(1, None)), pair(&["default"], &[]));
        assert_eq!(sent(&mut stream, &moment(0, Some(0))), pair(&["default", PARTNER], &[]));
    }
}

#[test]
fn a_rejected_version_is_news_once_and_not_sent_again_but_the_next_one_is() {
    let mut stream = Delta::default();
    stream.request(subscribing(&["default", "ROOTCA"])).unwrap();
    let first = stream.respond(&moment(0, None)).unwrap().unwrap();
    for round in 0..50 {
        assert_eq!(stream.request(nack(&first)).unwrap(), rejected(round == 0));
        assert!(is_quiet(&mut stream, &moment(0, None)), "round {round}");
    }
    let second = stream.respond(&moment(1, None)).unwrap().unwrap();
    assert_eq!(second.resources.len(), 1);
    assert_eq!(stream.request(nack(&first)).unwrap(), Said::Stale);
    assert_eq!(stream.request(nack(&second)).unwrap(), rejected(true));
    assert_eq!(stream.request(ack(&second)).unwrap(), Said::Fine);
    assert!(is_quiet(&mut stream, &moment(1, None)));
}

#[test]
fn a_subscription_counts_whatever_response_it_speaks_of() {
    let mut stream = Delta::default();
    stream.request(subscribing(&["default"])).unwrap();
    let first = stream.respond(&moment(0, None)).unwrap().unwrap();
    stream.respond(&moment(1, None)).unwrap().unwrap();
    let late = DeltaDiscoveryRequest {
        resource_names_subscribe: texts(&["ROOTCA"]),
        ..ack(&first)
    };
    assert_eq!(stream.request(late).unwrap(), Said::Stale);
    assert_eq!(sent(&mut stream, &moment(1, None)), pair(&["ROOTCA"], &[]));
}

/// What a client has from an earlier stream, at that moment.
fn having(names: &[&str], before: &Material, request: DeltaDiscoveryRequest) -> DeltaDiscoveryRequest {
    let versions = names
        .iter()
        .map(|name| ((*name).to_owned(), version(name, before).unwrap_or_default()));
    DeltaDiscoveryRequest {
        initial_resource_versions: versions.collect::<HashMap<_, _>>(),
        ..request
    }
}

#[test]
fn what_a_client_has_already_is_not_sent() {
    let before = moment(0, Some(0));
    let all = ["default", WEB, "ROOTCA", "ALL", OWN, PARTNER];
    type Case<'a> = (
        &'a [&'a str],
        &'a [&'a str],
        &'a Material,
        Option<(Vec<String>, Vec<String>)>,
    );
    let (renewed, alone) = (moment(1, Some(0)), moment(0, None));
    let table: [Case<'_>; 10] = [
        // Nothing has changed.
        (&["default", "ROOTCA"], &["default", "ROOTCA"], &before, None),
        (&all, &[], &before, None),
        (&all, &["*"], &before, None),
        // Something has, or was not there.
        (
            &["default", "ROOTCA"],
            &["default", "ROOTCA"],
            &renewed,
            Some(pair(&["default"], &[])),
        ),
        (&all, &[], &renewed, Some(pair(&["default", WEB], &[]))),
        (&all, &["*"], &renewed, Some(pair(&["default", WEB], &[]))),
        (&["default"], &["default", OWN], &before, Some(pair(&[OWN], &[]))),
        // It is gone.
        (
            &["default", PARTNER],
            &["default", PARTNER],
            &alone,
            Some(pair(&[], &[PARTNER])),
        ),
        (&all, &["*"], &alone, Some(pair(&["ALL"], &[PARTNER]))),
        // It has more than it wants.
        (&all, &["default"], &before, None),
    ];
    for (has, wants, now, expected) in table {
        let mut stream = Delta::default();
        stream.request(having(has, &before, subscribing(wants))).unwrap();
        match expected {
            Some(expected) => assert_eq!(sent(&mut stream, now), expected, "{has:?} {wants:?}"),
            None => assert!(is_quiet(&mut stream, now), "{has:?} {wants:?}"),
        }
        assert!(is_quiet(&mut stream, now));
    }
    // But when it asks again.
    let mut stream = Delta::default();
    stream
        .request(having(&["default"], &before, subscribing(&["default"])))
        .unwrap();
    assert!(is_quiet(&mut stream, &before));
    stream.request(subscribing(&["default"])).unwrap();
    assert_eq!(sent(&mut stream, &before), pair(&["default"], &[]));
}

#[test]
fn who_begins_without_names_or_with_a_star_is_told_all_that_comes_and_goes() {
    for names in [&[][..], &["*"], &["*", "default"]] {
        let mut stream = Delta::default();
        stream.request(subscribing(names)).unwrap();
        let all = ["ALL", "ROOTCA", "default", OWN, WEB];
        assert_eq!(sent(&mut stream, &moment(0, None)), pair(&all, &[]));
        for _ in 0..3 {
            assert_eq!(sent(&mut stream, &moment(0, Some(0))), pair(&["ALL", PARTNER], &[]));
            assert_eq!(sent(&mut stream, &moment(0, None)), pair(&["ALL"], &[PARTNER]));
            assert!(is_quiet(&mut stream, &moment(0, None)));
        }
    }
}

#[test]
fn without_its_star_a_client_keeps_what_it_named() {
    let mut stream = begun(&["*"], &moment(0, Some(0)));
    stream.request(subscribing(&["default"])).unwrap();
    assert_eq!(sent(&mut stream, &moment(0, Some(0))), pair(&["default"], &[]));
    stream.request(unsubscribing(&["*"])).unwrap();
    assert!(is_quiet(&mut stream, &moment(0, None)));
    assert_eq!(sent(&mut stream, &moment(1, Some(1))), pair(&["default"], &[]));
    stream.request(unsubscribing(&["default"])).unwrap();
    assert!(is_quiet(&mut stream, &moment(2, Some(0))));
    stream.request(subscribing(&["*"])).unwrap();
    assert_eq!(sent(&mut stream, &moment(2, Some(0))).0.len(), 6);
}

#[test]
fn with_a_star_what_is_unsubscribed_from_is_told_again_since_it_was_thrown_away() {
    let now = moment(0, None);
    let mut stream = begun(&["*", "default"], &now);
    stream.request(unsubscribing(&["default"])).unwrap();
    assert_eq!(sent(&mut stream, &now), pair(&["default"], &[]));
    assert!(is_quiet(&mut stream, &now));
}

/// The bundle of a mesh with many partners.
#[test]
fn who_wants_all_may_have_more_than_can_be_named() {
    let mut many = bundle(&[&STORE.own]);
    for number in 0..2 * MAX_NAMES {
        let roots = ders(&[&STORE.partners[0]]);
        many = many.with(domain(&format!("partner{number}.example")), roots).unwrap();
    }
    let many = material(&[&STORE.webs[0]], many);
    let mut stream = Delta::default();
    stream.request(subscribing(&[])).unwrap();
    let response = stream.respond(&many).unwrap().unwrap();
    assert_eq!(response.resources.len(), 2 * MAX_NAMES + 5);
    assert_eq!(stream.request(ack(&response)).unwrap(), Said::Fine);
    assert!(is_quiet(&mut stream, &many));
}

#[test]
fn a_name_that_is_not_known_waits_beside_one_that_is() {
    let mut stream = Delta::default();
    stream.request(subscribing(&["default", PARTNER])).unwrap();
    assert_eq!(sent(&mut stream, &moment(0, None)), pair(&["default"], &[PARTNER]));
    assert_eq!(sent(&mut stream, &moment(0, Some(0))), pair(&[PARTNER], &[]));
}

#[test]
fn when_no_name_is_known_the_error_lists_those_that_are() {
    let mut stream = Delta::default();
    stream.request(subscribing(&["server-cert", "ca"])).unwrap();
    let message = stream.respond(&moment(0, None)).unwrap_err().to_string();
    assert_eq!(
        message,
        format!(
            "no secret is named \"ca\", \"server-cert\"; known here: \"default\", \"{WEB}\", \"ROOTCA\", \"ALL\", \
             \"{OWN}\""
        )
    );
}

#[test]
fn requests_that_cannot_be_served_are_refused_with_what_is_wrong() {
    let numbers = || (0..=MAX_NAMES).map(|number| number.to_string());
    let of_type = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/other".into(),
        ..subscribing(&["default"])
    };
    let many = DeltaDiscoveryRequest {
        resource_names_subscribe: numbers().collect(),
        ..subscribing(&[])
    };
    let had = DeltaDiscoveryRequest {
        initial_resource_versions: numbers().map(|name| (name, String::new())).collect(),
        ..subscribing(&[])
    };
    let table = [
        (of_type, "type.googleapis.com/other is no type of this service"),
        (many, "65 names on one stream: 64 at most"),
        (had, "65 names on one stream: 64 at most"),
        (
            subscribing(&[&"x".repeat(MAX_NAME + 1)]),
            "a name has 2049 bytes: 2048 at most",
        ),
    ];
    for (request, expected) in table {
        let message = Delta::default().request(request).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    }
    // Bit by bit, too; and what is unsubscribed from does not count.
    let mut stream = Delta::default();
    for number in 0..MAX_NAMES {
        stream.request(subscribing(&[&number.to_string()])).unwrap();
    }
    let swap = DeltaDiscoveryRequest {
        resource_names_unsubscribe: texts(&["0"]),
        ..subscribing(&["one more"])
    };
    stream.request(swap).unwrap();
    let message = stream.request(subscribing(&["another"])).unwrap_err().to_string();
    assert_eq!(message, "65 names on one stream: 64 at most");
}
