#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::super::head::MAX_HEAD;
use super::Framing;
use crate::http::fault::Fault;

/// What passes of `input` when it comes in pieces that end at `cuts`, and what
/// stopped it.
fn passed(input: &[u8], cuts: &[usize]) -> (Vec<u8>, Option<Fault>) {
    let mut framing = Framing::default();
    let (mut passed, mut raw) = (Vec::new(), Vec::new());
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    ends.sort_unstable();
    ends.push(input.len());
    let mut at = 0;
    for end in ends {
        raw.extend_from_slice(&input[at..end]);
        at = end;
        loop {
            match framing.judge(&raw) {
                Ok(0) => break,
                Ok(count) => passed.extend(raw.drain(..count)),
                Err(fault) => return (passed, Some(fault)),
            }
            if raw.is_empty() {
                break;
            }
        }
    }
    (passed, None)
}

#[test]
fn requests_with_one_reading_pass() {
    let table: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding:  CHUNKED \r\n\r\n1a;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\r\n\r\n0\r\nChecksum: 1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\nEmpty:\r\nTab:\ta\tb\r\n\r\n",
        b"GET / HTTP/1.1\r\nObs: \xe9\r\n\r\n",
    ];
    for input in table {
        assert_eq!(
            passed(input, &[]),
            (input.to_vec(), None),
            "{}",
            String::from_utf8_lossy(input)
        );
    }
}

/// What two readers could take differently, and what we call it.
const MISREAD: &[(&[u8], Fault)] = &[
    // CL.TE and TE.CL
    (
        b"POST / HTTP/1.1\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        Fault::BothLengths,
    ),
    (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG",
        Fault::BothLengths,
    ),
    // TE.TE
    (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
        Fault::TransferEncoding,
    ),
    (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        Fault::TransferEncoding,
    ),
    (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
        Fault::TransferEncoding,
    ),
    (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        Fault::TransferEncoding,
    ),
    (
        b"POST / HTTP/1.1\r\nTransfer-Encoding:\x0bchunked\r\n\r\n",
        Fault::HeaderValue,
    ),
    (
        b"POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n",
        Fault::HeaderName,
    ),
    (
        b"POST / HTTP/1.1\r\nTransfer_Encoding: chunked\r\n\r\n",
        Fault::HeaderName,
    ),
    (
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        Fault::TransferEncoding,
    ),
    // CL.CL
    (
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        Fault::ContentLength,
    ),
    (
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        Fault::ContentLength,
    ),
    (b"POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n", Fault::ContentLength),
    (b"POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n", Fault::ContentLength),
    (b"POST / HTTP/1.1\r\nContent-Length: 0x5\r\n\r\n", Fault::ContentLength),
    (b"POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", Fault::ContentLength),
    (
        b"POST / HTTP/1.1\r\nContent-Length: 9999999999999999999\r\n\r\n",
        Fault::ContentLength,
    ),
    (b"POST / HTTP/1.1\r\ncontent_length: 5\r\n\r\n", Fault::HeaderName),
    // Lines
    (b"GET / HTTP/1.1\nHost: a\r\n\r\n", Fault::BareLf),
    (b"GET / HTTP/1.1\r\nHost: a\n\r\n", Fault::BareLf),
    (b"GET / HTTP/1.1\r\nHost: a\r\n\n", Fault::BareLf),
    (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", Fault::BareCr),
    (b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n", Fault::ObsFold),
    (b"GET / HTTP/1.1\r\n X: a\r\n\r\n", Fault::ObsFold),
    (b"GET / HTTP/1.1\r\nX\x00: a\r\n\r\n", Fault::HeaderName),
    (b"GET / HTTP/1.1\r\nX\xff: a\r\n\r\n", Fault::HeaderName),
    (b"GET / HTTP/1.1\r\nX Y: a\r\n\r\n", Fault::HeaderName),
    (b"GET / HTTP/1.1\r\n: a\r\n\r\n", Fault::HeaderName),
    (b"GET / HTTP/1.1\r\nnothing\r\n\r\n", Fault::HeaderName),
    (b"GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n", Fault::HeaderValue),
    (b"GET / HTTP/1.1\r\nWatchword-Refused: a\r\n\r\n", Fault::ReservedHeader),
    // The first line
    (b"GET  / HTTP/1.1\r\n\r\n", Fault::RequestLine),
    (b"GET / HTTP/1.1 \r\n\r\n", Fault::RequestLine),
    (b"GET\t/\tHTTP/1.1\r\n\r\n", Fault::RequestLine),
    (b"GET /\x00 HTTP/1.1\r\n\r\n", Fault::RequestLine),
    (b"G{T / HTTP/1.1\r\n\r\n", Fault::RequestLine),
    (b"GET /\r\n\r\n", Fault::RequestLine),
    (b"\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", Fault::RequestLine),
    (b"GET / HTTP/1.2\r\n\r\n", Fault::Version),
    (b"GET / HTTP/0.9\r\n\r\n", Fault::Version),
    (b"GET / HTTP/2.0\r\n\r\n", Fault::Version),
    // Chunks
    (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\nabcde\r\n",
        Fault::BareLf,
    ),
    (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcde\r\n",
        Fault::Chunk,
    ),
    (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n",
        Fault::Chunk,
    ),
    (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n",
        Fault::Chunk,
    ),
    (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n 3\r\nabc\r\n",
        Fault::Chunk,
    ),
    (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1000000000000000\r\n",
        Fault::Chunk,
    ),
    (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;a\x00\r\nabc\r\n",
        Fault::Chunk,
    ),
    (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n",
        Fault::Trailer,
    ),
    (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX y: 5\r\n\r\n",
        Fault::HeaderName,
    ),
];

#[test]
fn what_two_readers_could_take_differently_is_refused() {
    for (input, fault) in MISREAD {
        let (passed, found) = passed(input, &[]);
        assert_eq!(found, Some(*fault), "{}", String::from_utf8_lossy(input));
        // Nothing of a request passes before its head is judged.
        let is_in_body = matches!(fault, Fault::Chunk | Fault::Trailer) || input.starts_with(b"POST");
        assert!(is_in_body || passed.is_empty());
    }
}

#[test]
fn what_has_no_end_is_bounded() {
    let long = |line: &[u8]| [b"GET / HTTP/1.1\r\n".as_slice(), line].concat();
    let endless_line = long(&vec![b'a'; MAX_HEAD]);
    assert_eq!(passed(&endless_line, &[]).1, Some(Fault::HeadTooLarge));
    let endless_head = long(&b"X: y\r\n".repeat(MAX_HEAD / 6));
    assert_eq!(passed(&endless_head, &[]).1, Some(Fault::HeadTooLarge));
    let chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let endless_extension = [chunked.as_slice(), b"3;", &[b'a'; 300]].concat();
    assert_eq!(passed(&endless_extension, &[]).1, Some(Fault::Chunk));
    let endless_trailers = [chunked.as_slice(), b"0\r\n", &b"X: y\r\n".repeat(4000)].concat();
    assert_eq!(passed(&endless_trailers, &[]).1, Some(Fault::Trailer));
}

/// Pieces of requests, whole and broken.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let known = prop_oneof![
        "(GET|POST) /[a-z]{0,3} HTTP/1\\.[01]",
        "Content-Length: [0-9]{1,2}",
        "Transfer-Encoding: chunked",
        "[A-Za-z_-]{1,4}: [a-z ]{0,6}",
        "[0-9a-f]{1,2}",
        "0",
        "",
    ]
    .prop_map(|line| format!("{line}\r\n").into_bytes());
    let other = prop_oneof![
        vec(any::<u8>(), 0..12),
        "[\r\n\t :a-z0-9]{0,8}".prop_map(String::into_bytes)
    ];
    vec(prop_oneof![6 => known, 1 => other], 0..14).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// However the bytes come, the same ones pass, and the same fault is found.
    #[test]
    fn pieces_make_no_difference(input in pieces(), cuts in vec(any::<usize>(), 0..8)) {
        let whole = passed(&input, &[]);
        prop_assert_eq!(&passed(&input, &cuts), &whole);
        let bytes: Vec<usize> = (0..input.len()).collect();
        prop_assert_eq!(&passed(&input, &bytes), &whole);
        prop_assert!(input.starts_with(&whole.0));
    }
}
