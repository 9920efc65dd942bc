//! Messages that are written and read back, whole and cut off.

use super::*;

#[test]
fn a_message_is_its_header_its_familys_and_attributes_each_aligned() {
    let request = Requests::one(0x1234, DUMP, &[1, 2, 3, 4], |a| {
        a.text(1, "ab").be32(2, 7).nest(3, |a| {
            a.bytes(4, &[9]);
        });
    });
    let mut expected = Vec::new();
    expected.extend(48u32.to_ne_bytes());
    expected.extend(0x1234u16.to_ne_bytes());
    expected.extend(0x301u16.to_ne_bytes()); // NLM_F_REQUEST | NLM_F_DUMP
    expected.extend([0; 8]); // sequence number, port
    expected.extend([1, 2, 3, 4]);
    let mut attribute = |length: u16, kind: u16, value: &[u8]| {
        expected.extend(length.to_ne_bytes());
        expected.extend(kind.to_ne_bytes());
        expected.extend(value);
    };
    attribute(7, 1, b"ab\0\0");
    attribute(8, 2, &[0, 0, 0, 7]);
    attribute(12, 0x8003, &[]);
    attribute(5, 4, &[9, 0, 0, 0]);
    assert_eq!(request.bytes(), expected);
}

#[test]
fn what_is_written_is_read() {
    let mut requests = Requests::default();
    requests.push(1, 0, &[], |_| {});
    requests.push(2, 0, &[0; 4], |a| {
        a.bytes(5, b"one").nest(6, |a| {
            a.bytes(7, b"two");
        });
    });
    requests.acknowledge_last();
    requests.push(3, 0, &[], |_| {});
    let read: Vec<_> = messages(requests.bytes()).collect();
    assert_eq!(
        read.iter()
            .map(|it| (it.kind, it.sequence))
            .collect::<Vec<_>>(),
        [(1, 0), (2, 1), (3, 2)]
    );
    assert_eq!(
        read.iter()
            .map(|it| it.flags & ACK != 0)
            .collect::<Vec<_>>(),
        [false, true, false]
    );
    let held: Vec<_> = read[1].attributes(4).collect();
    assert_eq!(
        (held[0].kind, held[0].nested, held[0].value),
        (5, false, &b"one"[..])
    );
    assert!(held[1].nested);
    assert_eq!(find(attributes(held[1].value), 7), Some(&b"two"[..]));
    assert_eq!(find(attributes(held[1].value), 8), None);
}

#[test]
fn what_is_cut_off_is_not_read() {
    let mut requests = Requests::default();
    requests.push(1, 0, &[], |a| {
        a.bytes(5, b"four");
    });
    let bytes = requests.bytes();
    for length in 0..bytes.len() {
        assert_eq!(messages(&bytes[..length]).count(), 0, "{length} bytes");
    }
    let attribute = &bytes[16..];
    for length in 0..attribute.len() {
        assert_eq!(
            attributes(&attribute[..length]).count(),
            0,
            "{length} bytes"
        );
    }
    // A length that does not even cover its own header would be read for ever.
    assert_eq!(messages(&[0; 64]).count(), 0);
    assert_eq!(attributes(&[0; 64]).count(), 0);
}

#[test]
fn an_attribute_that_is_too_long_does_not_wrap_around() {
    let request = Requests::one(1, 0, &[], |a| {
        a.bytes(1, &vec![0; 70_000]);
    });
    assert_eq!(number(request.bytes(), 16), Some(u16::MAX.to_ne_bytes()));
}

#[test]
fn a_list_that_changed_meanwhile_is_asked_for_anew_but_not_for_ever() {
    let mut asked = 0;
    let listed = socket::until_unchanged(|| {
        asked += 1;
        if asked < 3 {
            Err(Error::Changed)
        } else {
            Ok(asked)
        }
    });
    assert_eq!(listed, Ok(3));
    let always: Result<(), _> = socket::until_unchanged(|| Err(Error::Changed));
    assert_eq!(always, Err(Error::Changed));
}
