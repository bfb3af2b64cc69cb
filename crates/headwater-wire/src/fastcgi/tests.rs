//! Tests of the FastCGI records and CGI heads.

use proptest::prelude::*;

use super::*;

/// Records as events with content joined: what the parser makes of an input, given in pieces of these sizes.
fn events(input: &[u8], sizes: &[usize]) -> Result<Vec<(String, Vec<u8>)>, RecordError> {
    let mut parser = RecordParser::default();
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    let mut rest = input;
    let mut sizes = sizes.iter().copied().cycle();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(sizes.next().unwrap_or(usize::MAX).clamp(1, rest.len()));
        let mut left = piece;
        loop {
            let step = parser.step(left)?;
            match step.event {
                Event::More => {
                    assert_eq!(step.consumed, left.len());
                    break;
                }
                Event::Begin(kind, length) => found.push((format!("{kind:?} {length}"), Vec::new())),
                Event::Content(_, range) => found.last_mut().unwrap().1.extend_from_slice(&left[range]),
                Event::End(kind) => found.push((format!("end {kind:?}"), Vec::new())),
            }
            left = &left[step.consumed..];
        }
        rest = after;
    }
    Ok(found)
}

fn record(kind: Kind, content: &[u8], padding: u8) -> Vec<u8> {
    let mut out = Vec::new();
    header(kind.number(), content.len(), padding, &mut out);
    out.extend_from_slice(content);
    pad(padding, &mut out);
    out
}

#[test]
fn records_with_content_padding_and_none_are_told_in_order() {
    let input = [
        record(Kind::Stderr, b"oops", 4),
        record(Kind::Stdout, b"hello", 0),
        record(Kind::Stdout, b"", 0),
        record(Kind::EndRequest, &[0; 8], 0),
    ]
    .concat();
    let found = events(&input, &[input.len()]).unwrap();
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    let wanted = [
        "Stderr 4",
        "end Stderr",
        "Stdout 5",
        "end Stdout",
        "Stdout 0",
        "end Stdout",
        "EndRequest 8",
        "end EndRequest",
    ];
    assert_eq!(names, wanted);
    assert_eq!(found[2].1, b"hello");
}

#[test]
fn wrong_header_bytes_are_named() {
    let text = |input: &[u8]| events(input, &[1]).unwrap_err().to_string();
    assert_eq!(text(&[2]), "upstream sent unsupported FastCGI protocol version: 2");
    assert_eq!(text(&[1, 5]), "upstream sent invalid FastCGI record type: 5");
    assert_eq!(text(&[1, 6, 1]), "upstream sent unexpected FastCGI request id high byte: 1");
    assert_eq!(text(&[1, 6, 0, 2]), "upstream sent unexpected FastCGI request id low byte: 2");
}

#[test]
fn unread_content_is_given_again() {
    let input = record(Kind::Stdout, b"head body", 2);
    let mut parser = RecordParser::default();
    let begin = parser.step(&input).unwrap();
    let rest = &input[begin.consumed..];
    assert_eq!(parser.step(rest).unwrap().event, Event::Content(Kind::Stdout, 0..9));
    parser.unread(4);
    assert_eq!(parser.step(&rest[5..]).unwrap().event, Event::Content(Kind::Stdout, 0..4));
    assert_eq!(parser.step(&rest[9..]).unwrap(), Step { consumed: 2, event: Event::End(Kind::Stdout) });
}

#[test]
fn request_is_coded_as_nginx_codes_it() {
    let mut out = Vec::new();
    begin_request(true, &mut out);
    let mut params = Params::begin(&mut out);
    params.push(b"A", b"b");
    params.finish().unwrap();
    encode_stdin(b"abc", &mut out);
    end_stdin(&mut out);
    let wanted: &[&[u8]] = &[
        &[1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0],
        &[1, 4, 0, 1, 0, 4, 4, 0, 1, 1, b'A', b'b', 0, 0, 0, 0],
        &[1, 4, 0, 1, 0, 0, 0, 0],
        &[1, 5, 0, 1, 0, 3, 5, 0, b'a', b'b', b'c', 0, 0, 0, 0, 0],
        &[1, 5, 0, 1, 0, 0, 0, 0],
    ];
    assert_eq!(out, wanted.concat());
}

#[test]
fn long_values_have_four_byte_lengths() {
    let mut out = Vec::new();
    let mut params = Params::begin(&mut out);
    params.push(b"N", &[b'v'; 128]);
    params.push(b"M", &[b'v'; 127]);
    params.finish().unwrap();
    assert_eq!(out[HEADER..HEADER + 6], [1, 0x80, 0, 0, 128, b'N']);
    assert_eq!(out[HEADER + 6 + 128..HEADER + 6 + 131], [1, 127, b'M']);
}

#[test]
fn params_beyond_one_record_are_refused_with_their_size() {
    let mut out = Vec::new();
    let mut params = Params::begin(&mut out);
    params.push(b"N", &[b'v'; 65_536]);
    assert_eq!(params.finish(), Err(TooBig(1 + 4 + 1 + 65_536)));
}

#[test]
fn large_bodies_are_cut_into_padded_pieces() {
    let mut out = Vec::new();
    encode_stdin(&vec![b'x'; STDIN_PIECE + 1], &mut out);
    assert_eq!(out.len(), HEADER + STDIN_PIECE + HEADER + 1 + 7);
    assert_eq!(out[4..7], [0x80, 0, 0]);
    assert_eq!(out[HEADER + STDIN_PIECE + 4..HEADER + STDIN_PIECE + 7], [0, 1, 7]);
}

fn any_record() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![Just(Kind::Stdout), Just(Kind::Stderr), Just(Kind::EndRequest)];
    (kind, proptest::collection::vec(any::<u8>(), 0..300), any::<u8>())
        .prop_map(|(kind, content, padding)| record(kind, &content, padding))
}

proptest! {
    #[test]
    fn any_split_of_records_gives_the_same(
        records in proptest::collection::vec(any_record(), 0..6),
        tail in proptest::collection::vec(any::<u8>(), 0..12),
        sizes in proptest::collection::vec(1_usize..40, 1..8),
    ) {
        let input = [records.concat(), tail].concat();
        prop_assert_eq!(events(&input, &sizes), events(&input, &[usize::MAX]));
    }
}
