//! What framing itself costs: headers, and cutting a byte stream into frames.
//! No payload is copied here; `tunnel` measures frames with their bytes.
#![allow(clippy::expect_used, reason = "a failed benchmark has to stop")]

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use watchword_tunnel::frame::{Decoder, HEADER, Header, MAX_DATA, Step, Type};

/// Frames in one input of the decoder.
const FRAMES: usize = 64;

fn main() {
    let mut criterion = watchword_benches::criterion();
    headers(&mut criterion);
    streams(&mut criterion);
    criterion.final_summary();
}

fn headers(criterion: &mut Criterion) {
    let header = Header {
        kind: Type::Data,
        length: MAX_DATA,
        stream: 7,
    };
    let bytes = header.encode();
    assert_eq!(Header::decode(bytes), Ok(header));
    let mut group = criterion.benchmark_group("header");
    group.bench_function("encode", |bencher| bencher.iter(|| black_box(&header).encode()));
    group.bench_function("decode", |bencher| bencher.iter(|| Header::decode(black_box(bytes))));
}

fn streams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    let cases = [
        ("full-data", Type::Data, MAX_DATA, usize::MAX),
        ("small-data", Type::Data, 64, usize::MAX),
        ("control", Type::Open, 70, usize::MAX),
        // As the pieces of a TCP connection come, across all frames' borders.
        ("full-data-in-1448-byte-pieces", Type::Data, MAX_DATA, 1448),
    ];
    for (name, kind, length, piece) in cases {
        let wire = wire(kind, length);
        assert_eq!(decode(&wire, piece), (FRAMES, FRAMES * length), "{name}");
        group.throughput(Throughput::Elements(FRAMES as u64));
        group.bench_function(name, |bencher| bencher.iter(|| decode(black_box(&wire), piece)));
    }
}

/// [`FRAMES`] frames of one kind, as they go over the wire.
fn wire(kind: Type, length: usize) -> Vec<u8> {
    let header = Header {
        kind,
        length,
        stream: 1,
    };
    let mut wire = Vec::with_capacity(FRAMES * (HEADER + length));
    for _ in 0..FRAMES {
        wire.extend_from_slice(&header.encode());
        wire.resize(wire.len() + length, 0x5a);
    }
    wire
}

/// Decodes all of it, when it arrives in pieces of at most `piece` bytes.
/// Returns the frames and their payload bytes.
fn decode(wire: &[u8], piece: usize) -> (usize, usize) {
    let mut decoder = Decoder::default();
    let (mut frames, mut payload) = (0, 0);
    let (mut start, mut end) = (0, 0);
    while start < wire.len() {
        let step = decoder.step(&wire[start..end]).expect("a frame");
        match step {
            Step::Whole(header) => {
                frames += 1;
                payload += header.length;
            }
            Step::Begin(_) => frames += 1,
            Step::Piece(bytes) => payload += bytes,
            Step::Need(_) => end = wire.len().min(end.saturating_add(piece)),
        }
        start += step.used();
    }
    (frames, payload)
}
