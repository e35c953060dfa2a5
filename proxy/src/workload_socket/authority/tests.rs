use proptest::prelude::*;

use super::*;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

/// Literal with incremental indexing: `:authority`.
fn authority(value: &[u8]) -> Vec<u8> {
    [&[0x41, u8::try_from(value.len()).unwrap_or(0x7e)], value].concat()
}

fn sent(frames: &[Vec<u8>]) -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frames.concat()].concat()
}

fn mended(mut bytes: Vec<u8>) -> Vec<u8> {
    Authority::default().mend(&mut bytes);
    bytes
}

const PATH: &[u8] = b"run%2Fwatchword%2Fworkload.sock";
const MENDED: &[u8] = b"run-2Fwatchword-2Fworkload.sock";
/// `:method: POST`, `:path` with a value that looks like one of ours, and a
/// header with a name of its own.
const BEFORE: &[u8] = b"\x83\x44\x04/a%b";
const BEHIND: &[u8] = b"\x40\x03x%y\x03a/%\x3f\xe1\x1f";

#[test]
fn only_what_may_not_stand_in_an_authority_is_replaced_wherever_it_comes() {
    let block = |path: &[u8]| [BEFORE, &authority(path), BEHIND].concat();
    let padded = |path: &[u8]| [&[3, 0, 0, 0, 0, 9], block(path).as_slice(), b"%/%"].concat();
    let cut = |path: &[u8], at: usize| {
        let block = block(path);
        [frame(HEADERS, 0, &block[..at]), frame(CONTINUATION, 4, &block[at..])].concat()
    };
    let data = frame(0, 0, b"\x41\x03/%/");
    let settings = frame(4, 0, &[]);
    let of = |path: &[u8]| {
        sent(&[
            settings.clone(),
            frame(HEADERS, 4, &block(path)),
            data.clone(),
            frame(HEADERS, 4 | PADDED | PRIORITY, &padded(path)),
            cut(path, 12),
            cut(path, 1),
            frame(HEADERS, 4, &block(path)),
        ])
    };
    assert_eq!(mended(of(PATH)), of(MENDED));
    assert_eq!(mended(of(MENDED)), of(MENDED));
    assert_eq!(mended(of(b"[::1]:8080")), of(b"[::1]:8080"));
    assert_eq!(mended(of(b"/run/a.sock")), of(b"-run-a.sock"));
    // Spelled out, as the C core does, and names that are not it.
    let spelled =
        |name: &[u8], value: &[u8]| [&[0x40, name.len() as u8][..], name, &[value.len() as u8], value].concat();
    for (name, expected) in [
        (&b":authority"[..], &b"a-b"[..]),
        (b":authorit", b"a/b"),
        (b":authority2", b"a/b"),
        (b"x:authority", b"a/b"),
    ] {
        assert_eq!(
            mended(sent(&[frame(HEADERS, 4, &spelled(name, b"a/b"))])),
            sent(&[frame(HEADERS, 4, &spelled(name, expected))])
        );
    }
    // Never indexed, and without indexing.
    for first in [0x11, 0x01] {
        let mut literal = authority(b"a/b");
        literal[0] = first;
        let mut expected = authority(b"a-b");
        expected[0] = first;
        assert_eq!(
            mended(sent(&[frame(HEADERS, 4, &literal)])),
            sent(&[frame(HEADERS, 4, &expected)])
        );
    }
}

#[test]
fn what_is_coded_or_longer_than_a_byte_tells_is_followed() {
    // Huffman-coded: whatever its bytes are, they are no text.
    let coded = [&[0x41, 0x83][..], b"/%/", &authority(b"a/b")].concat();
    let expected = [&[0x41, 0x83][..], b"/%/", &authority(b"a-b")].concat();
    assert_eq!(
        mended(sent(&[frame(HEADERS, 4, &coded)])),
        sent(&[frame(HEADERS, 4, &expected)])
    );
    let long = |letter: u8| [&[0x41, 0x7f, 0xad, 0x01][..], &[letter; 300]].concat();
    assert_eq!(
        mended(sent(&[frame(HEADERS, 4, &long(b'%'))])),
        sent(&[frame(HEADERS, 4, &long(b'-'))])
    );
}

proptest! {
    #[test]
    fn it_does_not_matter_how_bytes_are_cut_nor_what_they_are(
        garbage in proptest::collection::vec(any::<u8>(), 0..400), cuts in proptest::collection::vec(1usize..40, 1..40),
    ) {
        let valid = frame(HEADERS, 4, &[BEFORE, &authority(PATH), BEHIND].concat());
        let bytes = [sent(&[valid]), garbage].concat();
        let whole = mended(bytes.clone());
        let mut pieces = bytes.clone();
        let mut scanner = Authority::default();
        let (mut from, mut cuts) = (0, cuts.into_iter().cycle());
        while from < pieces.len() {
            let to = pieces.len().min(from + cuts.next().unwrap_or(1));
            scanner.mend(&mut pieces[from..to]);
            from = to;
        }
        prop_assert_eq!(&pieces, &whole);
        prop_assert_eq!(whole.len(), bytes.len());
    }
}
