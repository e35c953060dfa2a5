#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

fn frame(kind: Type, stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        kind,
        length: payload.len(),
        stream,
    };
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn the_bytes_are_those_of_the_wire() {
    assert_eq!(frame(Type::Data, 7, b"ab"), [5, 0, 0, 2, 0, 0, 0, 7, b'a', b'b']);
    for (number, kind) in (1..).zip(Type::ALL) {
        assert_eq!(kind as u8, number);
    }
}

#[test]
fn every_limit_is_checked_before_the_payload() {
    let decode = |kind: Type, length, stream| Header::decode(Header { kind, length, stream }.encode());
    for kind in Type::ALL {
        let stream = u32::from(!kind.is_of_tunnel());
        let length = kind.limit();
        assert_eq!(decode(kind, length, stream), Ok(Header { kind, length, stream }));
        let length = length + 1;
        assert_eq!(decode(kind, length, stream), Err(FrameError::TooLong { kind, length }));
        let stream = 1 - stream;
        assert_eq!(decode(kind, 1, stream), Err(FrameError::WrongStream { kind, stream }));
    }
    assert_eq!(decode(Type::Data, 0, 1), Err(FrameError::EmptyData));
    for number in [0, 11, 22, 255] {
        assert_eq!(
            Header::decode([number, 0, 0, 0, 0, 0, 0, 1]),
            Err(FrameError::UnknownType(number))
        );
    }
}

proptest! {
    #[test]
    fn frames_survive_any_cutting(
        frames in prop::collection::vec((1u8..=8, prop::collection::vec(any::<u8>(), 1..300)), 1..20),
        cuts in prop::collection::vec(1usize..50, 1..50),
    ) {
        let mut wire = Vec::new();
        let mut wanted = Vec::new();
        for (number, payload) in frames {
            let kind = Type::from_wire(number).unwrap();
            let stream = u32::from(!kind.is_of_tunnel());
            wire.extend(frame(kind, stream, &payload));
            wanted.push((kind, payload));
        }
        let mut decoder = Decoder::default();
        let mut buffer = Vec::new();
        let mut got: Vec<(Type, Vec<u8>)> = Vec::new();
        let mut cuts = cuts.into_iter().cycle();
        while !wire.is_empty() {
            let cut = cuts.next().unwrap().min(wire.len());
            buffer.extend(wire.drain(..cut));
            loop {
                let step = decoder.step(&buffer).unwrap();
                match step {
                    Step::Need(bytes) => {
                        prop_assert!(bytes > buffer.len());
                        break;
                    }
                    Step::Begin(header) => got.push((header.kind, Vec::new())),
                    Step::Piece(bytes) => got.last_mut().unwrap().1.extend(&buffer[..bytes]),
                    Step::Whole(header) => {
                        got.push((header.kind, buffer[HEADER..HEADER + header.length].to_vec()));
                    }
                }
                buffer.drain(..step.used());
            }
        }
        prop_assert_eq!(got, wanted);
        prop_assert!(!decoder.is_within_payload());
    }
}

/// What the bytes mean, read from docs/wire.md with all of them at hand:
/// frames, the last one perhaps in part, and what ended them.
fn naive(mut bytes: &[u8]) -> (Vec<(u8, Vec<u8>)>, Option<FrameError>) {
    let mut frames = Vec::new();
    while bytes.len() >= 8 {
        let number = bytes[0];
        let length = usize::from(bytes[1]) << 16 | usize::from(bytes[2]) << 8 | usize::from(bytes[3]);
        let stream = u32::from_be_bytes(bytes[4..8].try_into().unwrap());
        if number == 0 || number > 10 {
            return (frames, Some(FrameError::UnknownType(number)));
        }
        let kind = Type::ALL[usize::from(number) - 1];
        let (most, in_pieces) = match number {
            5 => (16_376, true),
            9 | 10 => (65_536, true),
            _ => (4_096, false),
        };
        let error = if length > most {
            Some(FrameError::TooLong { kind, length })
        } else if number == 5 && length == 0 {
            Some(FrameError::EmptyData)
        } else if (number >= 8) != (stream == 0) {
            Some(FrameError::WrongStream { kind, stream })
        } else {
            None
        };
        if error.is_some() {
            return (frames, error);
        }
        let payload = &bytes[8..];
        if payload.len() < length {
            if in_pieces {
                frames.push((number, payload.to_vec()));
            }
            return (frames, None);
        }
        frames.push((number, payload[..length].to_vec()));
        bytes = &payload[length..];
    }
    (frames, None)
}

/// Frames, almost frames, and noise.
fn wire() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![
        4 => 0u32..40,
        1 => prop::sample::select(vec![4_095, 4_096, 4_097, 16_375, 16_376, 16_377, 65_536, 65_537, 0xff_ffff]),
    ];
    let kind = prop_oneof![8 => 1u8..=10, 1 => any::<u8>()];
    let honest = (kind, length, 0u32..3, any::<u8>(), prop::bool::weighted(0.9)).prop_map(
        |(kind, length, stream, byte, fitting)| {
            let stream = if fitting {
                u32::from(kind < 8) * (stream + 1)
            } else {
                stream
            };
            let mut bytes = vec![kind];
            bytes.extend(&length.to_be_bytes()[1..]);
            bytes.extend(stream.to_be_bytes());
            bytes.extend(std::iter::repeat_n(byte, length.min(70_000) as usize));
            bytes
        },
    );
    let noise = prop::collection::vec(any::<u8>(), 0..30);
    prop::collection::vec(prop_oneof![12 => honest, 1 => noise], 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn any_bytes_in_any_pieces_mean_what_a_naive_reader_makes_of_them(
        mut wire in wire(),
        cut_off in 0usize..30,
        pieces in prop::collection::vec(prop_oneof![1usize..12, 1usize..20_000], 1..20),
    ) {
        wire.truncate(wire.len().saturating_sub(cut_off));
        let (wanted, wanted_error) = naive(&wire);
        let mut decoder = Decoder::default();
        let mut input = Vec::new();
        let mut got: Vec<(u8, Vec<u8>)> = Vec::new();
        let mut error = None;
        let mut pieces = pieces.into_iter().cycle();
        let mut rest = wire.as_slice();
        while !rest.is_empty() && error.is_none() {
            let (piece, behind) = rest.split_at(pieces.next().unwrap().min(rest.len()));
            rest = behind;
            input.extend(piece);
            loop {
                let step = match decoder.step(&input) {
                    Ok(step) => step,
                    Err(found) => {
                        error = Some(found);
                        break;
                    }
                };
                match step {
                    Step::Need(bytes) => {
                        // So much memory, whatever a header says.
                        prop_assert!(bytes > input.len() && bytes <= HEADER + MAX_CONTROL);
                        break;
                    }
                    Step::Begin(header) => got.push((header.kind as u8, Vec::new())),
                    Step::Piece(bytes) => got.last_mut().unwrap().1.extend(&input[..bytes]),
                    Step::Whole(header) => got.push((header.kind as u8, input[HEADER..step.used()].to_vec())),
                }
                input.drain(..step.used());
            }
        }
        prop_assert_eq!((got, error), (wanted, wanted_error));
    }
}
