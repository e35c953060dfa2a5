#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;

use super::*;

fn source(number: u32) -> IpAddr {
    Ipv4Addr::from(number).into()
}

fn stranger(number: u32) -> Caller {
    Caller {
        source: source(number),
        known: false,
    }
}

fn known(number: u32) -> Caller {
    Caller {
        source: source(number),
        known: true,
    }
}

/// Takes as many slots as it gets, within reason.
fn take_all(room: &mut Room<u32>, caller: Caller) -> usize {
    (0..2 * SLOTS).take_while(|_| room.take(caller)).count()
}

#[test]
fn one_source_holds_a_quarter_of_the_slots() {
    for caller in [stranger(1), known(1)] {
        assert_eq!(take_all(&mut Room::new(PLACES), caller), 64);
    }
}

#[test]
fn strangers_leave_slots_to_sources_with_a_live_tunnel() {
    let mut room = Room::new(PLACES);
    let taken: usize = (0..1000).map(|number| take_all(&mut room, stranger(number))).sum();
    assert_eq!(taken, 192);
    assert_eq!(take_all(&mut room, known(5000)), 64);
    assert!(!room.take(known(5001)));
}

#[test]
fn a_quarter_of_the_places_is_kept_too_and_nobody_waits_beyond_the_last() {
    let mut room = Room::new(PLACES);
    let wait_all = |room: &mut Room<u32>, caller| (0..2 * PLACES).take_while(|_| room.wait(caller, 0)).count();
    assert_eq!(wait_all(&mut room, stranger(1)), 12_288);
    assert!(!room.wait(stranger(2), 0));
    assert_eq!(wait_all(&mut room, known(3)), 4_096);
    assert!(!room.wait(known(4), 0));
    // One source with a tunnel does not fill it alone.
    let mut room = Room::new(PLACES);
    assert_eq!(wait_all(&mut room, known(3)), 12_288);
    assert_eq!(wait_all(&mut room, stranger(1)), 4_096);
}

#[test]
fn sources_take_turns_and_those_with_a_live_tunnel_go_first() {
    let mut room = Room::new(PLACES);
    let holders: Vec<_> = (100..104).map(known).collect();
    for holder in &holders {
        assert_eq!(take_all(&mut room, *holder), 64);
    }
    for number in 0..3 {
        assert!(room.wait(stranger(1), number));
    }
    assert!(room.wait(stranger(2), 10));
    assert!(room.wait(known(3), 20));
    let mut order = Vec::new();
    for _ in 0..5 {
        assert!(room.next().is_none());
        room.leave(holders[0]);
        order.push(room.next().unwrap().1);
    }
    assert_eq!(order, [20, 0, 10, 1, 2]);
}

#[test]
fn who_holds_a_quarter_is_passed_over_until_it_gives_one_back() {
    let mut room = Room::new(PLACES);
    assert_eq!(take_all(&mut room, stranger(1)), 64);
    assert!(room.wait(stranger(1), 1));
    assert!(room.next().is_none());
    assert!(room.take(stranger(2)), "others do not wait behind it");
    room.leave(stranger(1));
    assert_eq!(room.next().unwrap(), (stranger(1), 1));
}

#[test]
fn nothing_is_kept_of_those_who_left() {
    let mut room = Room::new(PLACES);
    for number in 0..192 {
        assert!(room.take(stranger(number)));
        assert!(room.wait(stranger(1000 + number), number));
    }
    for number in 0..192 {
        room.leave(stranger(number));
        let (caller, _) = room.next().unwrap();
        room.leave(caller);
    }
    assert_eq!((room.slots, room.slots_of_strangers, room.strangers.length), (0, 0, 0));
    assert!(room.slots_of.is_empty() && room.strangers.of.is_empty() && room.strangers.turns.is_empty());
}

#[tokio::test]
async fn a_slot_that_is_given_back_wakes_the_next_one_and_who_gave_up_is_skipped() {
    let handshakes = Handshakes::with_places(PLACES);
    let (one, other) = (source(1), source(2));
    let mut held = Vec::new();
    for _ in 0..SLOTS_OF_ONE_SOURCE {
        held.push(handshakes.slot(one, false).await.unwrap());
    }
    // So many that giving up one within the other would not end well.
    let mut gone: Vec<_> = (0..10_000).map(|_| Box::pin(handshakes.slot(one, false))).collect();
    let mut waits = Box::pin(handshakes.slot(one, false));
    for gone in &mut gone {
        assert!(is_pending(gone.as_mut()).await);
    }
    assert!(is_pending(waits.as_mut()).await);
    assert!(handshakes.slot(other, false).await.is_some());
    drop(gone);
    held.pop();
    let slot = waits.await.unwrap();
    drop((slot, held));
    assert_eq!(handshakes.lock().slots, 0);
}

/// Polls once.
async fn is_pending<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
    let mut future = Some(future);
    std::future::poll_fn(|cx| std::task::Poll::Ready(future.take().is_some_and(|future| future.poll(cx).is_pending())))
        .await
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Whatever comes and goes: the limits hold, and nobody waits who could
    /// have a slot.
    #[test]
    fn limits_hold_whatever_comes_and_goes(steps in proptest::collection::vec((0u32..12, 0u8..3, 0usize..400), 1..2000)) {
        let mut room = Room::new(64);
        let mut held: Vec<Caller> = Vec::new();
        let mut waiting: Vec<Caller> = Vec::new();
        for (number, what, index) in steps {
            // The last sources have a tunnel.
            let caller = if number < 9 { stranger(number) } else { known(number) };
            if what < 2 {
                if room.take(caller) {
                    held.push(caller);
                } else if room.wait(caller, 0) {
                    waiting.push(caller);
                }
            } else if !held.is_empty() {
                room.leave(held.swap_remove(index % held.len()));
                while let Some((caller, _)) = room.next() {
                    let position = waiting.iter().position(|other| *other == caller).unwrap();
                    waiting.swap_remove(position);
                    held.push(caller);
                }
            }
            let of = |caller: Caller| held.iter().filter(|other| other.source == caller.source).count();
            let strangers = held.iter().filter(|caller| !caller.known).count();
            assert!(held.len() <= SLOTS && strangers <= SLOTS - KEPT_SLOTS && waiting.len() <= 64);
            assert!(held.iter().all(|caller| of(*caller) <= SLOTS_OF_ONE_SOURCE));
            for caller in &waiting {
                let full = held.len() == SLOTS || (!caller.known && strangers == SLOTS - KEPT_SLOTS);
                assert!(full || of(*caller) == SLOTS_OF_ONE_SOURCE, "{caller:?} waits in vain");
            }
        }
    }
}
