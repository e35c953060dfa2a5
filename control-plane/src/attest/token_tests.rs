//! Join tokens: one key, ten minutes, one ID.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::attest::lineage;
use crate::store::IssuedSvid;
use crate::testing::{id, key, now, request};

fn made(state: &mut State) -> TokenSecret {
    let fresh = FreshToken::draw().unwrap();
    create(state, &fresh, &id("/web"), now()).unwrap();
    TokenSecret::from_text(&fresh.text(&id("/web"))).unwrap()
}

fn begin(state: &mut State, secret: &TokenSecret, csr: &Csr, serial: &str) -> LineageKey {
    let svid = IssuedSvid {
        serial: serial.into(),
        not_after: unix_seconds(now()) + 3600,
        key: csr.key_digest(),
        chain: vec![format!("chain of {serial}")],
    };
    let lineage = lineage::begin(state, &svid, csr.id(), now()).unwrap();
    settle(state, secret, lineage, csr.id()).unwrap();
    lineage
}

#[test]
fn the_state_holds_no_secret_and_a_token_says_for_whom_it_is() {
    let mut state = State::default();
    let fresh = FreshToken::draw().unwrap();
    let expires_at = create(&mut state, &fresh, &id("/web"), now()).unwrap();
    assert_eq!(expires_at, unix_seconds(now()) + 600);
    let text = fresh.text(&id("/web"));
    assert!(
        text.starts_with("wwjt-") && text.ends_with(":spiffe://example.org/web"),
        "{text}"
    );
    // Base64url has dashes of its own: all 22 characters, not a piece of them.
    let (secret, _) = text.strip_prefix("wwjt-").unwrap().split_once(':').unwrap();
    assert_eq!(secret.len(), 22);
    let kept = serde_json::to_string(&state.tokens.values().collect::<Vec<_>>()).unwrap() + &format!("{state:?}");
    assert!(!kept.contains(secret));
    assert!(!format!("{:?}", TokenSecret::from_text(&text).unwrap()).contains(secret));
}

#[test]
fn the_first_key_has_the_token_and_may_try_again() {
    let mut state = State::default();
    let secret = made(&mut state);
    let (ours, theirs) = (request("/web", &key()), request("/web", &key()));
    assert_eq!(claim(&mut state, &secret, &ours, now()), Ok(Claim::First));
    assert_eq!(
        claim(&mut state, &secret, &ours, now()),
        Ok(Claim::First),
        "nothing was signed yet"
    );
    assert_eq!(claim(&mut state, &secret, &theirs, now()), Err(TokenError::OtherKey));
    begin(&mut state, &secret, &ours, "01");
    assert_eq!(
        claim(&mut state, &secret, &ours, now()),
        Ok(Claim::Again(vec!["chain of 01".into()]))
    );
    assert_eq!(claim(&mut state, &secret, &theirs, now()), Err(TokenError::OtherKey));
}

#[test]
fn a_token_whose_certificate_was_used_gives_no_second_one() {
    let mut state = State::default();
    let secret = made(&mut state);
    let csr = request("/web", &key());
    claim(&mut state, &secret, &csr, now()).unwrap();
    let lineage = begin(&mut state, &secret, &csr, "01");
    let entry = state.lineages.get_mut(&lineage).unwrap();
    entry.current = entry.pending.take();
    assert_eq!(
        claim(&mut state, &secret, &csr, now()).unwrap_err().label(),
        "token-spent"
    );
    // Nor does a later SVID of the lineage that happens to have that key again.
    let entry = state.lineages.get_mut(&lineage).unwrap();
    entry.pending.clone_from(&entry.current);
    assert_eq!(
        claim(&mut state, &secret, &csr, now()).unwrap_err().label(),
        "token-spent"
    );
}

#[test]
fn a_refused_claim_leaves_the_token_as_it_was() {
    let mut state = State::default();
    let secret = made(&mut state);
    let before = state.clone();
    let stranger = request("/orders", &key());
    assert_eq!(
        claim(&mut state, &secret, &stranger, now()).unwrap_err().label(),
        "token-for-other-id"
    );
    let late = now() + TOKEN_LIFETIME;
    assert_eq!(
        claim(&mut state, &secret, &request("/web", &key()), late)
            .unwrap_err()
            .label(),
        "token-expired"
    );
    let fresh = FreshToken::draw().unwrap().text(&id("/web"));
    let unknown = TokenSecret::from_text(&fresh).unwrap();
    let refused = claim(&mut state, &unknown, &request("/web", &key()), now()).unwrap_err();
    assert_eq!(refused.label(), "token-unknown");
    assert!(
        refused
            .to_string()
            .contains("watchword token create --id spiffe://example.org/web")
    );
    assert_eq!(state, before);
    let just_in_time = late - Duration::from_secs(1);
    assert_eq!(
        claim(&mut state, &secret, &request("/web", &key()), just_in_time),
        Ok(Claim::First)
    );
}

#[test]
fn texts_that_are_no_tokens_are_refused() {
    let good = FreshToken::draw().unwrap().text(&id("/web"));
    assert!(TokenSecret::from_text(&format!(" {good}\n")).is_ok());
    let long = format!("{good}{}", "a".repeat(5000));
    let bad = [
        "",
        "wwjt-",
        "wwjt-AAAA:spiffe://example.org/web",
        &good[5..],
        "wwjt-AAAAAAAAAAAAAAAAAAAAAA",
        &long,
    ];
    for text in bad.into_iter().chain([
        "wwjt-AAAAAAAAAAAAAAAAAAAAAA:web",
        "wwjt-AAAAAAAAAAAAAAAAAAAA+A:spiffe://a/b",
    ]) {
        assert_eq!(
            TokenSecret::from_text(text).unwrap_err(),
            TokenError::Malformed,
            "{text}"
        );
    }
}

#[test]
fn tokens_do_not_grow_without_bound() {
    let mut state = State::default();
    for number in 0..MAX_TOKENS {
        let expires_at = unix_seconds(now()) + 600;
        state.tokens.insert(
            number.to_string().into(),
            Token {
                id: String::new(),
                expires_at,
                used: None,
            },
        );
    }
    let fresh = FreshToken::draw().unwrap();
    assert_eq!(create(&mut state, &fresh, &id("/web"), now()), Err(TokenError::TooMany));
    let next_week = now() + Duration::from_secs(7 * 24 * 3600);
    create(&mut state, &fresh, &id("/web"), next_week).unwrap();
    assert_eq!(state.tokens.len(), 1);
}
