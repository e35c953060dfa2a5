//! Lineages: lost answers are harmless, stolen keys are found out.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;
use rcgen::{CertificateParams, DistinguishedName, IsCa, KeyUsagePurpose, SerialNumber};

use super::*;
use crate::testing::{id, now, uri};

const HOUR: Duration = Duration::from_secs(3600);

/// An SVID as the verifier would hand it over; nothing here looks at signatures.
fn svid(path: &str, serial: u8) -> Svid {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(&id(path).to_string())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.serial_number = Some(SerialNumber::from_slice(&[serial]));
    params.not_after = (now() + HOUR).into();
    Svid::from_chain(vec![params.self_signed(&crate::testing::key()).unwrap().der().clone()]).unwrap()
}

fn digest(name: &str) -> KeyDigest {
    serde_json::from_value(name.into()).unwrap()
}

/// The SVID with this serial was signed for the key of this name.
fn successor(serial: u8, key: &str) -> IssuedSvid {
    issued(&svid("/web", serial), digest(key))
}

/// A lineage that began with serial 1, for the key `a`.
fn begun() -> State {
    let mut state = State::default();
    begin(&mut state, &successor(1, "a"), &id("/web"), now()).unwrap();
    state
}

fn renew_with(state: &mut State, serial: u8, key: &str) -> Result<Renewal, LineageError> {
    renew(state, &svid("/web", serial), &digest(key))
}

fn label<T: std::fmt::Debug>(result: Result<T, LineageError>) -> &'static str {
    result.unwrap_err().label()
}

#[test]
fn each_svid_is_replaced_by_the_next() {
    let mut state = begun();
    for serial in 1..20 {
        let key = format!("key {serial}");
        assert_eq!(renew_with(&mut state, serial, &key), Ok(Renewal::Fresh));
        succeed(&mut state, &svid("/web", serial), &successor(serial + 1, &key)).unwrap();
    }
    assert!(!state.lineages[&0].frozen);
}

#[test]
fn a_lost_answer_is_given_again_to_the_same_key_only() {
    let mut state = begun();
    let second = successor(2, "b");
    assert_eq!(succeed(&mut state, &svid("/web", 1), &second), Ok(second.chain.clone()));
    assert_eq!(renew_with(&mut state, 1, "b"), Ok(Renewal::Again(second.chain.clone())));
    assert_eq!(renew_with(&mut state, 1, "b"), Ok(Renewal::Again(second.chain)));
    assert!(!state.lineages[&0].frozen);
    assert_eq!(label(renew_with(&mut state, 1, "c")), "pending-for-other-key");
    assert!(state.lineages[&0].frozen);
}

#[test]
fn two_answers_to_one_request_are_the_same() {
    let mut state = begun();
    let first = succeed(&mut state, &svid("/web", 1), &successor(2, "b")).unwrap();
    let second = succeed(&mut state, &svid("/web", 1), &successor(3, "b")).unwrap();
    assert_eq!(first, second);
    assert_eq!(label(used(&mut state, &svid("/web", 3))), "serial-unknown");
}

#[test]
fn a_replaced_serial_freezes_the_lineage_for_everybody() {
    for by_renewing in [true, false] {
        let mut state = begun();
        succeed(&mut state, &svid("/web", 1), &successor(2, "b")).unwrap();
        used(&mut state, &svid("/web", 2)).unwrap();
        let error = if by_renewing {
            renew_with(&mut state, 1, "thief").unwrap_err()
        } else {
            used(&mut state, &svid("/web", 1)).unwrap_err()
        };
        assert!(error.is_alarm() && error.label() == "serial-retired");
        assert!(state.lineages[&0].frozen);
        assert_eq!(label(renew_with(&mut state, 2, "c")), "lineage-frozen");
        // News still reach it: they can only make it stricter.
        used(&mut state, &svid("/web", 2)).unwrap();
    }
}

#[test]
fn a_thief_who_renews_first_is_found_out_by_the_honest_one() {
    let mut state = begun();
    used(&mut state, &svid("/web", 1)).unwrap();
    succeed(&mut state, &svid("/web", 1), &successor(2, "thief")).unwrap();
    let error = renew_with(&mut state, 1, "honest").unwrap_err();
    assert!(error.is_alarm() && error.label() == "pending-for-other-key");
    // However long the thief waits: nothing more is issued to anybody.
    assert_eq!(label(renew_with(&mut state, 2, "thief 2")), "lineage-frozen");
}

#[test]
fn what_was_frozen_while_the_authority_signed_is_not_answered() {
    let mut state = begun();
    succeed(&mut state, &svid("/web", 1), &successor(2, "b")).unwrap();
    assert_eq!(renew_with(&mut state, 2, "c"), Ok(Renewal::Fresh));
    used(&mut state, &svid("/web", 1)).unwrap_err();
    assert_eq!(
        label(succeed(&mut state, &svid("/web", 2), &successor(3, "c"))),
        "lineage-frozen"
    );
}

#[test]
fn replicas_have_lineages_of_their_own() {
    let mut state = begun();
    begin(&mut state, &successor(9, "z"), &id("/web"), now()).unwrap();
    succeed(&mut state, &svid("/web", 1), &successor(2, "b")).unwrap();
    used(&mut state, &svid("/web", 2)).unwrap();
    used(&mut state, &svid("/web", 1)).unwrap_err();
    assert_eq!(renew_with(&mut state, 9, "y"), Ok(Renewal::Fresh));
}

#[test]
fn unknown_serials_foreign_ids_and_old_keys_are_refused_without_freezing() {
    let mut state = begun();
    assert_eq!(label(renew_with(&mut state, 77, "b")), "serial-unknown");
    assert_eq!(
        label(renew(&mut state, &svid("/orders", 1), &digest("b"))),
        "serial-unknown"
    );
    assert_eq!(label(renew_with(&mut state, 1, "a")), "same-key");
    assert_eq!(renew_with(&mut state, 1, "b"), Ok(Renewal::Fresh));
}

#[test]
fn a_hot_loop_is_slowed_down() {
    let mut state = begun();
    let lineage = state.lineages.get_mut(&0).unwrap();
    for number in 0..MAX_RETIRED {
        lineage
            .retired
            .insert(format!("old {number}"), unix_seconds(now()) + 10);
    }
    assert_eq!(label(renew_with(&mut state, 1, "b")), "renewed-too-often");
    state.sweep(now() + Duration::from_secs(11));
    assert_eq!(renew_with(&mut state, 1, "b"), Ok(Renewal::Fresh));
}

fn speak(state: &mut State, serial: u8) -> Result<(), LineageError> {
    speak_for_workload(state, &svid("/web", serial), now())
}

/// Notes that the SVID of this serial asked for one of the other.
fn spoke(state: &mut State, serial: u8, workload: &str) -> Result<(), LineageError> {
    spoke_for_workload(state, &svid("/web", serial), (workload, now() + HOUR), now())
}

#[test]
fn what_is_issued_to_a_workload_belongs_to_no_lineage() {
    let mut state = begun();
    speak(&mut state, 1).unwrap();
    spoke(&mut state, 1, "4d").unwrap();
    assert_eq!(label(renew_with(&mut state, 0x4d, "b")), "serial-unknown");
    assert_eq!(label(used(&mut state, &svid("/web", 0x4d))), "serial-unknown");
    assert_eq!(label(speak(&mut state, 0x4d)), "serial-unknown");
    // Nor does it take a place there.
    assert_eq!(renew_with(&mut state, 1, "b"), Ok(Renewal::Fresh));
    let lineage = &state.lineages[&0];
    assert!(!lineage.frozen && lineage.retired.is_empty() && lineage.pending.is_none());
    assert_eq!(
        lineage.workloads,
        [("4d".to_owned(), unix_seconds(now() + HOUR))].into()
    );
}

#[test]
fn who_speaks_for_a_workload_must_have_an_svid_of_a_lineage() {
    let mut state = begun();
    assert_eq!(label(speak(&mut state, 77)), "serial-unknown");
    let foreign = speak_for_workload(&mut state, &svid("/orders", 1), now());
    assert_eq!(label(foreign), "serial-unknown");
    assert_eq!(label(spoke(&mut state, 77, "4d")), "serial-unknown");
    assert!(state.lineages[&0].workloads.is_empty());
}

#[test]
fn to_speak_for_a_workload_is_a_use() {
    let mut state = begun();
    speak(&mut state, 1).unwrap();
    assert_eq!(state.lineages[&0].current.as_ref().unwrap().serial, "01");
    succeed(&mut state, &svid("/web", 1), &successor(2, "b")).unwrap();
    // The old one does not replace the new one, before that is used.
    speak(&mut state, 1).unwrap();
    speak(&mut state, 2).unwrap();
    assert!(state.lineages[&0].retired.contains_key("01"));
}

#[test]
fn a_call_for_a_workload_that_a_renewal_has_overtaken_raises_no_alarm() {
    let mut state = begun();
    speak(&mut state, 1).unwrap();
    succeed(&mut state, &svid("/web", 1), &successor(2, "b")).unwrap();
    used(&mut state, &svid("/web", 2)).unwrap();
    // Be it before the authority signs or while it does.
    for refused in [speak(&mut state, 1), spoke(&mut state, 1, "4d")] {
        let error = refused.unwrap_err();
        assert_eq!(error, LineageError::Replaced("01".into()));
        assert!(!error.is_alarm() && error.label() == "serial-replaced");
    }
    let lineage = &state.lineages[&0];
    assert!(!lineage.frozen && lineage.workloads.is_empty());
    spoke(&mut state, 2, "4e").unwrap();
}

#[test]
fn nobody_speaks_for_workloads_on_a_frozen_lineage() {
    let mut state = begun();
    succeed(&mut state, &svid("/web", 1), &successor(2, "b")).unwrap();
    used(&mut state, &svid("/web", 2)).unwrap();
    speak(&mut state, 2).unwrap();
    used(&mut state, &svid("/web", 1)).unwrap_err();
    for serial in [1, 2] {
        // Not "ask again": that would never end.
        assert_eq!(label(speak(&mut state, serial)), "lineage-frozen");
        assert_eq!(label(spoke(&mut state, serial, "4d")), "lineage-frozen");
    }
    assert!(state.lineages[&0].workloads.is_empty());
}

#[test]
fn so_many_svids_of_workloads_live_at_a_time() {
    let mut state = begun();
    begin(&mut state, &successor(9, "z"), &id("/web"), now()).unwrap();
    let late = now() + HOUR + Duration::from_secs(1);
    let speak_at = |state: &mut State, serial, when| speak_for_workload(state, &svid("/web", serial), when);
    for number in 0..MAX_WORKLOADS {
        let workloads = &mut state.lineages.get_mut(&0).unwrap().workloads;
        let ends = if number == 0 { now() } else { now() + HOUR };
        workloads.insert(format!("of workload {number}"), unix_seconds(ends));
    }
    assert_eq!(label(speak(&mut state, 1)), "too-many-workloads");
    assert_eq!(label(spoke(&mut state, 1, "4d")), "too-many-workloads");
    // Others are not kept from theirs.
    spoke(&mut state, 9, "4d").unwrap();
    // When one has expired there is room for one.
    let soon = now() + Duration::from_secs(1);
    speak_at(&mut state, 1, soon).unwrap();
    spoke_for_workload(&mut state, &svid("/web", 1), ("4e", late), soon).unwrap();
    assert_eq!(label(speak_at(&mut state, 1, soon)), "too-many-workloads");
    speak_at(&mut state, 1, late).unwrap();
    assert_eq!(state.lineages[&0].workloads.len(), 1);
    // It goes on as ever.
    assert_eq!(renew_with(&mut state, 1, "b"), Ok(Renewal::Fresh));
}

#[test]
fn a_lineage_is_remembered_as_long_as_what_its_workloads_have() {
    let mut state = begun();
    let ends = now() + HOUR * 3 / 2;
    spoke_for_workload(&mut state, &svid("/web", 1), ("4d", ends), now()).unwrap();
    spoke(&mut state, 1, "4e").unwrap();
    let second = Duration::from_secs(1);
    let left = |state: &State| state.lineages.get(&0).map(|lineage| lineage.workloads.len());
    for (when, expected) in [
        (now() + HOUR, Some(2)),
        (now() + HOUR + second, Some(1)),
        (ends, Some(1)),
        (ends + second, None),
    ] {
        state.sweep(when);
        assert_eq!(left(&state), expected);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Renew { serial: u8, key: u8 },
    Use { serial: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u8..8, 0u8..4).prop_map(|(serial, key)| Step::Renew { serial, key }),
        (1u8..8).prop_map(|serial| Step::Use { serial }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    /// Whatever is done with whichever serials: once a replaced serial was
    /// used, or a second key asked while a successor was pending, nothing is
    /// issued any more, and before that never two unexpired
    /// successors exist at a time.
    #[test]
    fn nothing_is_issued_after_an_alarm(steps in proptest::collection::vec(step(), 1..24)) {
        let svids: Vec<Svid> = (0..40).map(|serial| svid("/web", serial)).collect();
        let mut state = begun();
        let (mut last, mut replaced) = (1u8, Vec::new());
        let mut alarmed = false;
        for step in steps {
            let (Step::Renew { serial, .. } | Step::Use { serial }) = step;
            let before = state.lineages[&0].clone();
            let by_replaced = replaced.contains(&serial);
            let mut by_second_key = false;
            if let Step::Renew { key, .. } = step {
                let next = issued(&svids[usize::from(last + 1)], digest(&format!("key {key}")));
                match succeed(&mut state, &svids[usize::from(serial)], &next) {
                    Ok(chain) => {
                        prop_assert!(!alarmed && !by_replaced);
                        if chain == next.chain {
                            last += 1;
                        }
                    }
                    Err(error) => by_second_key = error.label() == "pending-for-other-key",
                }
            } else {
                let _ = used(&mut state, &svids[usize::from(serial)]);
            }
            alarmed |= by_replaced || by_second_key;
            prop_assert_eq!(state.lineages[&0].frozen, alarmed);
            let old = before.current.map(|svid| svid.serial);
            if old != state.lineages[&0].current.as_ref().map(|svid| svid.serial.clone())
                && let Some(old) = old {
                replaced.push(u8::from_str_radix(&old, 16).unwrap());
            }
        }
    }
}
