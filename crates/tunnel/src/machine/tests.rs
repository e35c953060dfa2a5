#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn header(kind: Type, stream: u32) -> Header {
    Header {
        kind,
        length: 1,
        stream,
    }
}

/// One side with what it has put on its wire.
struct Side {
    machine: Machine,
    wire: VecDeque<(Header, u32)>,
    /// The stream that a DATA frame was delivered to, and the one it was sent on.
    delivered: Vec<(u32, u32)>,
    replays: u32,
}

impl Side {
    fn new(machine: Machine) -> Self {
        Self {
            machine,
            wire: VecDeque::new(),
            delivered: Vec::new(),
            replays: 0,
        }
    }

    fn try_send(&mut self, kind: Type) {
        if let Ok(stream) = self.machine.send(kind) {
            self.wire.push_back((header(kind, stream), 0));
        }
    }

    /// A server's `back`: takes back the stream that it is still opening.
    fn try_goaway(&mut self, back: bool) {
        let served = self.machine.latest() - u32::from(back && self.machine.latest() > 0);
        if self.machine.say_goaway(served).is_ok() {
            self.wire.push_back((header(Type::Goaway, 0), served));
        }
    }

    fn take(&mut self, from: &mut Self) {
        let Some((head, served)) = from.wire.pop_front() else {
            return;
        };
        let before = self.machine.phase();
        match self.machine.receive(head).expect("an honest peer") {
            Verdict::Goaway => {
                let farewell = self.machine.goaway(served).expect("an honest peer");
                self.replays += u32::from(farewell == Farewell::Replay);
            }
            Verdict::Data => {
                assert_ne!(before, Phase::Idle);
                self.delivered.push((self.machine.latest(), head.stream));
            }
            Verdict::Denied { answer: true } | Verdict::Refused { answer: true } | Verdict::Reset { answer: true } => {
                self.wire.push_back((header(Type::Reset, head.stream), 0));
            }
            Verdict::Vouch => self.try_send(Type::Vouched),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Each number picks what happens next: a frame arrives on one side, or
    /// one side sends something if its table allows it.
    #[test]
    fn whatever_crosses_two_honest_sides_agree(choices in prop::collection::vec(0u8..32, 1..300)) {
        let mut client = Side::new(Machine::client());
        let mut server = Side::new(Machine::server());
        for choice in choices {
            match choice {
                0..=7 => client.take(&mut server),
                8..=15 => server.take(&mut client),
                16 | 17 => client.try_send(Type::Open),
                18 => client.try_send(Type::Data),
                19 | 20 => client.try_send(Type::Fin),
                21 => client.try_send(Type::Reset),
                22 => client.try_send(Type::Vouch),
                23 | 24 => server.try_send(Type::Opened),
                25 => server.try_send(Type::Denied),
                26 => server.try_send(Type::Refused),
                27 => server.try_send(Type::Data),
                28 | 29 => server.try_send(Type::Fin),
                30 => server.try_send(Type::Reset),
                _ if server.wire.len() % 3 == 2 => server.try_goaway(true),
                _ if client.machine.latest() > 8 => server.try_goaway(false),
                _ => {}
            }
        }
        // Both end what is open, and everything arrives.
        for _ in 0..3 {
            client.try_send(Type::Reset);
            server.try_send(Type::Opened);
            server.try_send(Type::Reset);
            while !client.wire.is_empty() || !server.wire.is_empty() {
                client.take(&mut server);
                server.take(&mut client);
            }
        }
        for side in [&client, &server] {
            prop_assert!(matches!(side.machine.phase(), Phase::Idle | Phase::Closed), "{:?}", side.machine);
            for (to, sent_on) in &side.delivered {
                prop_assert_eq!(to, sent_on);
            }
        }
    }

    #[test]
    fn no_sequence_of_frames_panics(frames in prop::collection::vec((0usize..10, 0u32..4, 1usize..70_000), 0..60)) {
        for mut machine in [Machine::client(), Machine::server()] {
            for &(kind, stream, length) in &frames {
                let kind = Type::ALL[kind];
                if machine.receive(Header { kind, length, stream }) == Ok(Verdict::Goaway) {
                    let _ = machine.goaway(stream);
                }
                let _ = machine.send(kind);
            }
        }
    }
}

/// A machine in the given phase, on stream 2.
fn at(role: Role, phase: Phase) -> Machine {
    let mut machine = Machine::new(role);
    machine.latest = 2;
    machine.phase = phase;
    machine
}

const PHASES: [Phase; 7] = [
    Phase::Idle,
    Phase::Opening { fin: false },
    Phase::Opening { fin: true },
    Phase::Open,
    Phase::FinSent,
    Phase::FinReceived,
    Phase::Discard { thrown: 0 },
];

/// The "receives" column for the latest stream, per phase of `PHASES`.
fn listed(role: Role) -> [&'static [Type]; 7] {
    use Type::{Data, Denied, Fin, Opened, Refused, Reset};
    match role {
        Role::Client => [
            &[Reset],
            &[Opened, Denied, Refused, Reset],
            &[Opened, Denied, Refused, Reset],
            &[Data, Fin, Reset],
            &[Data, Fin, Reset],
            &[Reset],
            &[Data, Opened, Fin, Reset, Denied, Refused],
        ],
        Role::Server => [
            &[Reset],
            &[Data, Fin, Reset],
            &[Reset],
            &[Data, Fin, Reset],
            &[Data, Fin, Reset],
            &[Reset],
            &[Data, Fin, Reset],
        ],
    }
}

#[test]
fn what_the_table_does_not_list_is_a_violation() {
    for role in [Role::Client, Role::Server] {
        for (phase, listed) in PHASES.into_iter().zip(listed(role)) {
            for kind in Type::ALL {
                if kind.is_of_tunnel() || kind == Type::Open {
                    continue;
                }
                let taken = at(role, phase).receive(header(kind, 2));
                assert_eq!(
                    taken.is_ok(),
                    listed.contains(&kind),
                    "{role:?} {phase:?} {kind:?}: {taken:?}"
                );
                let later = at(role, phase).receive(header(kind, 3));
                assert!(later.is_err(), "{role:?} {phase:?} {kind:?} of a later stream");
                let earlier = at(role, phase).receive(header(kind, 1));
                let wrong_side = Err(Violation::WrongSide(kind));
                let expected = if sends(role.other(), kind) {
                    Ok(Verdict::Drop)
                } else {
                    wrong_side
                };
                assert_eq!(earlier, expected, "{role:?} {phase:?} {kind:?} of an earlier stream");
            }
        }
    }
}

#[test]
fn an_answer_is_owed_only_before_ones_own_end() {
    let received = |role, kind| PHASES.map(|phase| at(role, phase).receive(header(kind, 2)).ok());
    let (owed, not) = (
        Some(Verdict::Reset { answer: true }),
        Some(Verdict::Reset { answer: false }),
    );
    let drop = Some(Verdict::Drop);
    assert_eq!(
        received(Role::Client, Type::Reset),
        [drop, owed, not, owed, not, owed, drop]
    );
    assert_eq!(
        received(Role::Server, Type::Reset),
        [drop, owed, owed, owed, not, owed, drop]
    );
    for (fin, answer) in [(false, true), (true, false)] {
        let mut client = at(Role::Client, Phase::Opening { fin });
        assert_eq!(
            client.clone().receive(header(Type::Denied, 2)),
            Ok(Verdict::Denied { answer })
        );
        assert_eq!(
            client.receive(header(Type::Refused, 2)),
            Ok(Verdict::Refused { answer })
        );
        assert_eq!(client.phase(), Phase::Idle);
    }
}

/// The "sends" column, for the latest stream.
#[test]
fn only_what_the_table_lists_is_sent() {
    use Type::{Data, Denied, Fin, Opened, Refused, Reset};
    let client: [&[Type]; 7] = [
        &[],
        &[Data, Fin, Reset],
        &[Reset],
        &[Data, Fin, Reset],
        &[Reset],
        &[Data, Fin, Reset],
        &[],
    ];
    let server: [&[Type]; 7] = [
        &[],
        &[Opened, Denied, Refused, Reset],
        &[Opened, Denied, Refused, Reset],
        &[Data, Fin, Reset],
        &[Reset],
        &[Data, Fin, Reset],
        &[],
    ];
    for (role, allowed) in [(Role::Client, client), (Role::Server, server)] {
        for (phase, allowed) in PHASES.into_iter().zip(allowed) {
            for kind in [Data, Fin, Reset, Opened, Denied, Refused] {
                let sent = at(role, phase).send(kind);
                assert_eq!(sent.is_ok(), allowed.contains(&kind), "{role:?} {phase:?} {kind:?}");
            }
            let opens = at(role, phase).send(Type::Open) == Ok(3);
            assert_eq!(opens, role == Role::Client && phase == Phase::Idle);
        }
    }
}

#[test]
fn open_needs_an_idle_tunnel_and_the_next_number() {
    for phase in PHASES {
        let next = at(Role::Server, phase).receive(header(Type::Open, 3));
        assert_eq!(next.is_ok(), phase == Phase::Idle, "{phase:?}");
    }
    for stream in [1, 2, 4] {
        assert!(
            at(Role::Server, Phase::Idle)
                .receive(header(Type::Open, stream))
                .is_err()
        );
    }
    assert!(at(Role::Client, Phase::Idle).receive(header(Type::Open, 3)).is_err());
    let mut last = at(Role::Client, Phase::Idle);
    last.latest = u32::MAX;
    assert!(!last.may_go_on());
    assert!(last.send(Type::Open).is_err());
}

#[test]
fn goaway_ends_the_right_streams() {
    let phases = |served| PHASES.map(|phase| at(Role::Client, phase).goaway(served));
    let bad = Err(Violation::BadGoaway(1));
    assert_eq!(
        phases(1),
        [
            Ok(Farewell::Close),
            Ok(Farewell::Replay),
            Ok(Farewell::Replay),
            bad,
            bad,
            bad,
            Ok(Farewell::Close)
        ]
    );
    assert_eq!(phases(2)[1..], [Ok(Farewell::AfterStream); 6]);
    let mut client = at(Role::Client, Phase::Open);
    assert_eq!(client.goaway(5), Ok(Farewell::AfterStream));
    assert!(!client.may_go_on());
    assert_eq!(client.goaway(6), Err(Violation::BadGoaway(6)));
    for phase in PHASES {
        assert_eq!(at(Role::Server, phase).goaway(0), Ok(Farewell::Close));
        let takes_back = at(Role::Server, phase).say_goaway(1).is_ok();
        assert_eq!(takes_back, matches!(phase, Phase::Opening { .. }), "{phase:?}");
    }
}

#[test]
fn a_server_that_said_goaway_drops_what_is_above_unread() {
    let mut server = at(Role::Server, Phase::Idle);
    server.say_goaway(2).unwrap();
    assert!(server.say_goaway(3).is_err());
    for kind in [Type::Open, Type::Data, Type::Fin, Type::Reset] {
        assert_eq!(server.receive(header(kind, 3)), Ok(Verdict::Drop));
    }
    assert_eq!(server.phase(), Phase::Idle);
    assert!(!server.may_go_on());
}

#[test]
fn throwing_away_has_an_end() {
    let mut server = at(Role::Server, Phase::Discard { thrown: 0 });
    let data = |length| Header {
        kind: Type::Data,
        length,
        stream: 2,
    };
    for _ in 0..16 {
        assert_eq!(server.receive(data(16_376)), Ok(Verdict::Drop));
    }
    assert_eq!(server.receive(data(DISCARD_LIMIT - 16 * 16_376)), Ok(Verdict::Drop));
    assert_eq!(server.receive(data(1)), Err(Violation::TooMuchAfterEnd));
}

#[test]
fn vouches_are_answered_one_at_a_time_and_ten_at_most() {
    let mut client = Machine::client();
    let mut server = Machine::server();
    for _ in 0..VOUCH_LIMIT {
        client.send(Type::Vouch).unwrap();
        assert!(client.send(Type::Vouch).is_err());
        assert!(client.send(Type::Open).is_err());
        assert_eq!(server.receive(header(Type::Vouch, 0)), Ok(Verdict::Vouch));
        assert!(server.clone().receive(header(Type::Open, 1)).is_err());
        server.send(Type::Vouched).unwrap();
        assert_eq!(client.receive(header(Type::Vouched, 0)), Ok(Verdict::Vouched));
    }
    assert!(client.send(Type::Vouch).is_err());
    assert_eq!(server.receive(header(Type::Vouch, 0)), Err(Violation::TooManyVouches));
    assert!(client.receive(header(Type::Vouched, 0)).is_err());
    assert!(at(Role::Server, Phase::Open).receive(header(Type::Vouch, 0)).is_err());
}
