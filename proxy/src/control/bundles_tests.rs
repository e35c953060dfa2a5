#![allow(clippy::unwrap_used)]
use watchword_daemon::{Clock, SystemClock};
use watchword_mtls::Now;

use super::*;
use crate::testing::{Root, bundle, id};

fn bundles() -> Bundles {
    Bundles::new(Credentials::new(Now::new(|| SystemClock.now())))
}

fn in_force(bundles: &Bundles) -> Bundle {
    bundles.credentials.current().unwrap().bundle().as_ref().clone()
}

fn renew(bundles: &Bundles, root: &Root, number: Number, bundle: Bundle) -> Result<u64, PublishError> {
    let (svid, key) = root.leaf(&id("/web"));
    bundles.with_certificate(&svid, &key, number, bundle)
}

#[test]
fn the_newest_counts_whichever_way_it_comes() {
    let (old, new) = (Root::new(), Root::new());
    let (first, both) = (bundle(&[&old]), bundle(&[&old, &new]));
    let bundles = bundles();
    renew(&bundles, &old, (1, 1), first.clone()).unwrap();
    bundles.pushed((1, 2), both.clone()).unwrap();
    // An answer that was under way brings its certificate, not its bundle.
    renew(&bundles, &old, (1, 1), first.clone()).unwrap();
    assert_eq!(in_force(&bundles), both);
    renew(&bundles, &new, (1, 1), first.clone()).unwrap();
    assert_eq!(in_force(&bundles), both);
    // A newer answer takes a root away, and an older push does not bring it back.
    renew(&bundles, &new, (1, 4), bundle(&[&new])).unwrap();
    bundles.pushed((1, 3), both.clone()).unwrap();
    assert_eq!(in_force(&bundles), bundle(&[&new]));
    // A control plane that was restarted counts anew.
    bundles.pushed((2, 1), both.clone()).unwrap();
    assert_eq!(in_force(&bundles), both);
    renew(&bundles, &new, (1, 9), first).unwrap();
    assert_eq!(in_force(&bundles), both);
}

#[test]
fn a_bundle_that_does_not_vouch_for_us_waits_for_the_next_certificate() {
    let (old, new) = (Root::new(), Root::new());
    let both = bundle(&[&old, &new]);
    let bundles = bundles();
    renew(&bundles, &old, (1, 1), both.clone()).unwrap();
    bundles.pushed((1, 2), bundle(&[&new])).unwrap_err();
    assert_eq!(in_force(&bundles), both);
    // The answer was made before the root was removed.
    renew(&bundles, &new, (1, 1), both).unwrap();
    assert_eq!(in_force(&bundles), bundle(&[&new]));
}
