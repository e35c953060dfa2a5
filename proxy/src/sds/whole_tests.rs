//! A stream whose responses have all: what is sent, and when.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use watchword_proto::sds::ErrorDetail;

use super::*;
use crate::sds::names::Named;
use crate::sds::refusal::{MAX_NAME, MAX_NAMES, Refusal};
use crate::testing::{Root, bundle, ders, domain, held, id, material};
use crate::workloads::Held;

const WEB: &str = "spiffe://example.org/web";
const PARTNER: &str = "spiffe://partner.example";

/// What there may be at one moment or another.
struct Store {
    own: Root,
    partner: Root,
    webs: Vec<Arc<Held>>,
}

static STORE: LazyLock<Store> = LazyLock::new(|| {
    let own = Root::new();
    Store {
        webs: (0..3).map(|_| held(&own, &id("/web"))).collect(),
        partner: Root::new(),
        own,
    }
});

/// The SVID of this number, with the partner's roots or without.
fn moment(number: usize, has_partner: bool) -> Material {
    let mut all = bundle(&[&STORE.own]);
    if has_partner {
        all = all.with(domain("partner.example"), ders(&[&STORE.partner])).unwrap();
    }
    material(&[&STORE.webs[number]], all)
}

fn asking(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        type_url: SECRET_TYPE.into(),
        ..DiscoveryRequest::default()
    }
}

fn ack(names: &[&str], response: &DiscoveryResponse) -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: response.version_info.clone(),
        response_nonce: response.nonce.clone(),
        ..asking(names)
    }
}

fn nack(names: &[&str], response: &DiscoveryResponse) -> DiscoveryRequest {
    DiscoveryRequest {
        response_nonce: response.nonce.clone(),
        error_detail: Some(ErrorDetail {
            code: 3,
            message: "bad key".into(),
        }),
        ..asking(names)
    }
}

fn rejected(is_news: bool) -> Said {
    Said::Rejected {
        reason: "bad key".into(),
        is_news,
    }
}

/// The response's resources, as they must be.
fn has(response: &DiscoveryResponse, names: &[&str], material: &Material) -> bool {
    let named: Option<Vec<Named>> = names.iter().map(|name| find(name, material)).collect();
    let expected = named.unwrap().into_iter().map(|named| named.secret.into());
    response.type_url == SECRET_TYPE && response.resources == expected.collect::<Vec<_>>()
}

fn sent(stream: &mut Whole, material: &Material) -> DiscoveryResponse {
    stream.respond(material).unwrap().unwrap()
}

fn is_quiet(stream: &mut Whole, material: &Material) -> bool {
    stream.respond(material).unwrap().is_none()
}

/// A stream on which these names were asked for, and its first response.
fn begun(names: &[&str], material: &Material) -> (Whole, DiscoveryResponse) {
    let mut stream = Whole::default();
    assert_eq!(stream.request(asking(names)).unwrap(), Said::Fine);
    let first = sent(&mut stream, material);
    (stream, first)
}

#[test]
fn nothing_is_sent_before_somebody_asks() {
    assert!(is_quiet(&mut Whole::default(), &moment(0, true)));
}

#[test]
fn what_is_asked_for_is_sent_once_and_again_when_it_has_changed() {
    let (mut stream, first) = begun(&["default"], &moment(0, true));
    assert!(has(&first, &["default"], &moment(0, true)));
    assert!(is_quiet(&mut stream, &moment(0, true)));
    assert_eq!(stream.request(ack(&["default"], &first)).unwrap(), Said::Fine);
    assert!(is_quiet(&mut stream, &moment(0, true)));
    // Others' news are none for this stream.
    assert!(is_quiet(&mut stream, &moment(0, false)));
    let second = sent(&mut stream, &moment(1, false));
    assert!(has(&second, &["default"], &moment(1, false)));
    assert_ne!((first.version_info, first.nonce), (second.version_info, second.nonce));
}

#[test]
fn who_comes_from_another_stream_is_told_whatever_it_has() {
    let (_, first) = begun(&["default"], &moment(0, true));
    let mut stream = Whole::default();
    assert_eq!(stream.request(ack(&["default"], &first)).unwrap(), Said::Fine);
    assert!(has(
        &sent(&mut stream, &moment(0, true)),
        &["default"],
        &moment(0, true)
    ));
}

#[test]
fn a_rejected_version_is_news_once_and_not_sent_again_but_the_next_one_is() {
    let (mut stream, first) = begun(&["default"], &moment(0, true));
    for round in 0..50 {
        assert_eq!(
            stream.request(nack(&["default"], &first)).unwrap(),
            rejected(round == 0)
        );
        assert!(is_quiet(&mut stream, &moment(0, true)), "round {round}");
    }
    let second = sent(&mut stream, &moment(1, true));
    assert!(has(&second, &["default"], &moment(1, true)));
    assert_eq!(stream.request(nack(&["default"], &second)).unwrap(), rejected(true));
    assert!(is_quiet(&mut stream, &moment(1, true)));
}

#[test]
fn a_rejection_with_other_names_is_answered_for_those() {
    let (mut stream, first) = begun(&["default"], &moment(0, true));
    assert_eq!(
        stream.request(nack(&["default", "ROOTCA"], &first)).unwrap(),
        rejected(true)
    );
    let second = sent(&mut stream, &moment(0, true));
    assert!(has(&second, &["ROOTCA", "default"], &moment(0, true)));
}

#[test]
fn a_request_about_an_earlier_response_changes_nothing() {
    let (mut stream, first) = begun(&["default"], &moment(0, true));
    let second = sent(&mut stream, &moment(1, true));
    assert_eq!(stream.request(ack(&["ROOTCA"], &first)).unwrap(), Said::Stale);
    assert_eq!(stream.request(nack(&["ROOTCA"], &first)).unwrap(), Said::Stale);
    assert!(is_quiet(&mut stream, &moment(1, true)));
    assert_eq!(stream.request(ack(&["ROOTCA"], &second)).unwrap(), Said::Fine);
    assert!(has(&sent(&mut stream, &moment(1, true)), &["ROOTCA"], &moment(1, true)));
}

#[test]
fn other_names_are_answered_at_once_and_the_same_in_another_order_are_not() {
    let now = moment(0, true);
    let (mut stream, first) = begun(&["default", "ROOTCA"], &now);
    assert!(has(&first, &["ROOTCA", "default"], &now));
    stream.request(ack(&["ROOTCA", "default", "ROOTCA"], &first)).unwrap();
    assert!(is_quiet(&mut stream, &now));
    stream.request(ack(&["default"], &first)).unwrap();
    let second = sent(&mut stream, &now);
    assert!(has(&second, &["default"], &now));
    // An old name is new again.
    stream.request(ack(&["default", "ROOTCA"], &second)).unwrap();
    assert!(has(&sent(&mut stream, &now), &["ROOTCA", "default"], &now));
}

const ALL: [&str; 6] = ["default", WEB, "ROOTCA", "ALL", "spiffe://example.org", PARTNER];

#[test]
fn who_names_nothing_or_a_star_is_told_all() {
    for names in [&[][..], &["*"], &["*", "default"]] {
        let (mut stream, first) = begun(names, &moment(0, true));
        assert!(has(&first, &ALL, &moment(0, true)), "{names:?}");
        stream.request(ack(names, &first)).unwrap();
        assert!(is_quiet(&mut stream, &moment(0, true)));
        assert!(has(&sent(&mut stream, &moment(0, false)), &ALL[..5], &moment(0, false)));
    }
}

#[test]
fn who_names_nothing_any_more_wants_nothing_and_may_come_back() {
    let (mut stream, first) = begun(&["default"], &moment(0, true));
    stream.request(ack(&[], &first)).unwrap();
    assert!(is_quiet(&mut stream, &moment(0, true)));
    assert!(is_quiet(&mut stream, &moment(1, true)));
    stream.request(ack(&["default"], &first)).unwrap();
    assert!(has(
        &sent(&mut stream, &moment(1, true)),
        &["default"],
        &moment(1, true)
    ));
}

#[test]
fn a_name_that_is_not_known_waits_beside_one_that_is() {
    let (mut stream, first) = begun(&["default", PARTNER], &moment(0, false));
    assert!(has(&first, &["default"], &moment(0, false)));
    assert!(is_quiet(&mut stream, &moment(0, false)));
    let both = sent(&mut stream, &moment(0, true));
    assert!(has(&both, &["default", PARTNER], &moment(0, true)));
    // And goes.
    let one = sent(&mut stream, &moment(0, false));
    assert!(has(&one, &["default"], &moment(0, false)));
}

#[test]
fn when_no_name_is_known_the_error_lists_those_that_are() {
    let mut stream = Whole::default();
    stream.request(asking(&["server-cert", "ca"])).unwrap();
    let message = stream.respond(&moment(0, true)).unwrap_err().to_string();
    assert_eq!(
        message,
        format!(
            "no secret is named \"ca\", \"server-cert\"; known here: \"default\", \"{WEB}\", \"ROOTCA\", \"ALL\", \
             \"spiffe://example.org\", \"{PARTNER}\""
        )
    );
}

/// What can't be served, and why.
fn wrong() -> Vec<(DiscoveryRequest, &'static str)> {
    let many: Vec<String> = (0..=MAX_NAMES).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let of_type = |name: &str| DiscoveryRequest {
        type_url: format!("type.googleapis.com/{name}"),
        ..asking(&["default"])
    };
    vec![
        (
            of_type("envoy.config.cluster.v3.Cluster"),
            "type.googleapis.com/envoy.config.cluster.v3.Cluster is no type of this service: only \
             type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret is",
        ),
        (asking(&many), "65 names on one stream: 64 at most"),
        (
            asking(&["default", &"x".repeat(MAX_NAME + 1)]),
            "a name has 2049 bytes: 2048 at most",
        ),
    ]
}

#[test]
fn requests_that_cannot_be_served_are_refused_with_what_is_wrong() {
    for (request, expected) in wrong() {
        let error = Whole::default().request(request.clone()).unwrap_err();
        assert_eq!(error.to_string(), expected);
        let refused = once(request, &moment(0, true)).unwrap_err();
        assert!(matches!(refused, Refusal::Wrong(wrong) if wrong.to_string() == expected));
    }
    // At the limits, and without a type.
    let many: Vec<String> = (0..MAX_NAMES - 1).map(|number| number.to_string()).collect();
    let mut names: Vec<&str> = many.iter().map(String::as_str).collect();
    names.push("default");
    let request = DiscoveryRequest {
        type_url: String::new(),
        ..asking(&names)
    };
    let mut stream = Whole::default();
    stream.request(request).unwrap();
    assert!(has(
        &sent(&mut stream, &moment(0, true)),
        &["default"],
        &moment(0, true)
    ));
    Whole::default().request(asking(&[&"x".repeat(MAX_NAME)])).unwrap();
}

#[test]
fn a_single_request_is_answered_only_when_each_name_is_known() {
    let now = moment(0, true);
    assert!(has(&once(asking(&["ROOTCA"]), &now).unwrap(), &["ROOTCA"], &now));
    for names in [&[][..], &["*"]] {
        assert!(has(&once(asking(names), &now).unwrap(), &ALL, &now));
    }
    let refused = once(asking(&["default", "ca"]), &now).unwrap_err();
    let status = tonic::Status::from(refused);
    assert_eq!(status.code(), tonic::Code::NotFound);
    assert!(
        status
            .message()
            .starts_with("no secret is named \"ca\"; known here: \"default\""),
        "{}",
        status.message()
    );
}

#[derive(Debug, Clone)]
enum Step {
    /// Something is new, or not.
    Moment(usize, bool),
    /// With the newest response's nonce, and perhaps a rejection of it.
    Ask { names: Vec<&'static str>, rejects: bool },
    /// Crosses a newer response; the client will say it again.
    Stale(Vec<&'static str>),
}

fn step() -> impl Strategy<Value = Step> {
    let names = || proptest::sample::subsequence(vec!["ROOTCA", "default", "ghost", PARTNER], 1..4);
    prop_oneof![
        (0usize..3, any::<bool>()).prop_map(|(number, has_partner)| Step::Moment(number, has_partner)),
        (names(), any::<bool>()).prop_map(|(names, rejects)| Step::Ask { names, rejects }),
        names().prop_map(Step::Stale),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    /// Whatever comes in whichever order: the last response has the newest of
    /// what was asked for last, and none is the same as the one before, unless
    /// other names were asked for in between.
    #[test]
    fn a_client_always_has_the_newest_of_what_it_asks_for(steps in proptest::collection::vec(step(), 1..40)) {
        let mut now = moment(0, false);
        let mut stream = Whole::default();
        let mut names: Vec<&str> = Vec::new();
        let mut last: Option<DiscoveryResponse> = None;
        let mut older: Option<DiscoveryResponse> = None;
        let mut is_new = false;
        for step in steps {
            match step {
                Step::Moment(number, has_partner) => now = moment(number, has_partner),
                Step::Ask { names: asked, rejects } => {
                    let request = match &last {
                        None => asking(&asked),
                        Some(last) if rejects => nack(&asked, last),
                        Some(last) => ack(&asked, last),
                    };
                    stream.request(request).unwrap();
                    is_new |= names != asked;
                    names = asked;
                }
                Step::Stale(asked) => if let Some(older) = &older {
                    prop_assert_eq!(stream.request(ack(&asked, older)).unwrap(), Said::Stale);
                }
            }
            let known: Vec<&str> = names.iter().copied().filter(|name| find(name, &now).is_some()).collect();
            match stream.respond(&now) {
                Ok(Some(response)) => {
                    prop_assert!(has(&response, &known, &now));
                    let before = last.replace(response);
                    let is_same = before.as_ref().zip(last.as_ref()).is_some_and(|(one, other)| one.resources == other.resources);
                    prop_assert!(is_new || !is_same);
                    older = before.or(older);
                    is_new = false;
                }
                Ok(None) if names.is_empty() => {}
                Ok(None) => prop_assert!(last.as_ref().is_some_and(|last| has(last, &known, &now))),
                // The stream has ended: the client begins another one.
                Err(_) => {
                    prop_assert!(known.is_empty() && !names.is_empty());
                    (stream, last, older) = (Whole::default(), None, None);
                    stream.request(asking(&names)).unwrap();
                    is_new = true;
                }
            }
        }
    }
}
