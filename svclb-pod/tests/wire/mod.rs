//! Readers of what the encoders write, as strict as the kernel and knowing nothing of how it is
//! written. They panic at the first length or nesting that is not right.

use svclb_pod::config::Family;
use svclb_pod::iptables::Entries;

/// A netlink message of a transaction.
pub struct Message {
    pub kind: u16,
    pub flags: u16,
    /// Its attributes: each with its type and, unless it holds attributes, its bytes.
    pub attributes: Vec<Attribute>,
}

pub struct Attribute {
    pub kind: u16,
    pub held: Vec<Attribute>,
    pub bytes: Vec<u8>,
}

impl Attribute {
    /// The attributes of a type that this one holds.
    pub fn get(&self, kind: u16) -> impl Iterator<Item = &Attribute> {
        self.held.iter().filter(move |held| held.kind == kind)
    }
}

/// `struct nlmsghdr`, `struct nfgenmsg`, attributes; messages are numbered from 0.
pub fn read_netlink(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_ne_bytes(at(bytes, 0)) as usize;
        assert!(
            (20..=bytes.len()).contains(&length) && length.is_multiple_of(4),
            "a message of {length} bytes, {} are left",
            bytes.len()
        );
        let sequence = u32::from_ne_bytes(at(bytes, 8));
        assert_eq!(sequence as usize, messages.len(), "sequence number");
        messages.push(Message {
            kind: u16::from_ne_bytes(at(bytes, 4)),
            flags: u16::from_ne_bytes(at(bytes, 6)),
            attributes: read_attributes(&bytes[20..length]),
        });
        bytes = &bytes[length..];
    }
    messages
}

/// `struct nlattr`, with `NLA_F_NESTED` in the type of those that hold others.
fn read_attributes(mut bytes: &[u8]) -> Vec<Attribute> {
    let mut attributes = Vec::new();
    while !bytes.is_empty() {
        let length = u16::from_ne_bytes(at(bytes, 0)) as usize;
        let kind = u16::from_ne_bytes(at(bytes, 2));
        let padded = length.next_multiple_of(4);
        assert!(
            length >= 4 && padded <= bytes.len(),
            "an attribute of {length} bytes, {} are left",
            bytes.len()
        );
        let (value, padding) = (&bytes[4..length], &bytes[length..padded]);
        assert!(padding.iter().all(|byte| *byte == 0), "padding");
        let nested = kind & 0x8000 != 0;
        attributes.push(Attribute {
            kind: kind & 0x3fff,
            held: if nested {
                read_attributes(value)
            } else {
                Vec::new()
            },
            bytes: if nested { Vec::new() } else { value.to_vec() },
        });
        bytes = &bytes[padded..];
    }
    attributes
}

/// `struct ipt_entry` or `struct ip6t_entry` one after the other; gives the number of rules, without
/// the entries that begin chains and the one that ends the table.
pub fn read_xtables(family: Family, entries: &Entries) -> usize {
    let align = align_of::<u64>();
    let target_offset = match family {
        Family::V4 => 88,
        Family::V6 => 140,
    };
    let size = (target_offset + 8usize).next_multiple_of(align) + 16;
    let bytes = &entries.bytes;
    let (mut offset, mut rules, mut number) = (0, 0, 0);
    let (mut starts, mut jumps, mut chains) = (Vec::new(), Vec::new(), Vec::new());
    let mut ended = false;
    while offset < bytes.len() {
        assert!(!ended, "an entry after the last at {offset}");
        starts.push(offset);
        number += 1;
        let entry = &bytes[offset..];
        let target = u16::from_ne_bytes(at(entry, target_offset)) as usize;
        let next = u16::from_ne_bytes(at(entry, target_offset + 2)) as usize;
        assert!(
            size <= target && target < next && next <= entry.len(),
            "entry at {offset}"
        );
        assert!(next.is_multiple_of(align), "entry at {offset}");
        let mut extension = size;
        while extension < target {
            let length = u16::from_ne_bytes(at(entry, extension)) as usize;
            assert!(
                length > 32 && length.is_multiple_of(align),
                "match in entry at {offset}"
            );
            assert_ne!(
                entry[extension + 2],
                0,
                "a match without a name at {offset}"
            );
            extension += length;
        }
        assert_eq!(extension, target, "matches of entry at {offset}");
        let length = u16::from_ne_bytes(at(entry, target)) as usize;
        assert_eq!(target + length, next, "target of entry at {offset}");
        let name = &entry[target + 2..target + 31];
        if name.starts_with(b"ERROR\0") {
            assert_eq!(
                length,
                (32 + 30usize).next_multiple_of(align),
                "error entry at {offset}"
            );
            ended = entry[target + 32..].starts_with(b"ERROR\0");
            chains.push(offset + next);
        } else {
            rules += 1;
            if name[0] == 0 {
                assert_eq!(
                    length,
                    (32 + 4usize).next_multiple_of(align),
                    "verdict at {offset}"
                );
                let verdict = i32::from_ne_bytes(at(entry, target + 32));
                jumps.extend(usize::try_from(verdict));
            }
        }
        offset += next;
    }
    assert!(ended, "the table has no end");
    assert_eq!(number, entries.number, "number of entries");
    for jump in jumps {
        assert!(
            chains.contains(&jump),
            "a jump to {jump}, where no chain begins"
        );
    }
    for hook in (0..5).filter(|hook| entries.valid_hooks & (1 << hook) != 0) {
        let (first, last) = (entries.hook_entry[hook], entries.underflow[hook]);
        assert!(first <= last, "hook {hook}");
        assert!(
            starts.binary_search(&(first as usize)).is_ok(),
            "hook {hook}"
        );
        assert!(
            starts.binary_search(&(last as usize)).is_ok(),
            "policy of hook {hook}"
        );
    }
    rules
}

fn at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let found = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    *found.unwrap_or_else(|| panic!("no {N} bytes at {offset}"))
}
