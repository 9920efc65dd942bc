//! The netlink wire format (linux/netlink.h): messages and attributes, written and read.
//!
//! Header fields and attribute lengths are in the byte order of the machine; what an attribute holds
//! is its family's affair.

mod socket;

pub use socket::{Error, Socket};

use nix::libc;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;
/// `NLMSG_ALIGNTO` and `NLA_ALIGNTO`.
const ALIGNMENT: usize = 4;
/// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`: the bits of an attribute's type that are no part of it.
const TYPE_FLAGS: u16 = 0xc000;
/// `NLA_F_NESTED`: the attribute holds attributes.
pub const NESTED: u16 = 0x8000;

/// `NLM_F_REQUEST`, which each request has.
pub const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
/// `NLM_F_ACK`: the kernel answers success as well as failure.
pub const ACK: u16 = libc::NLM_F_ACK as u16;
/// `NLM_F_DUMP`: the kernel answers with all objects that there are.
pub const DUMP: u16 = libc::NLM_F_DUMP as u16;

/// One or more requests, ready to be sent together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    bytes: Vec<u8>,
    last: usize,
    count: u32,
}

impl Requests {
    /// One request.
    pub fn one(
        kind: u16,
        flags: u16,
        header: &[u8],
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) -> Self {
        let mut requests = Self::default();
        requests.push(kind, flags, header, attributes);
        requests
    }

    /// Appends a message: its type, its `NLM_F_*` flags, the header of its family, its attributes. Its
    /// sequence number is how many there were before.
    pub fn push(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.last = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend([0; 4]); // the kernel fills in the sender's port
        self.bytes.extend(header);
        attributes(&mut Attributes(&mut self.bytes));
        let length = u32::try_from(self.bytes.len() - self.last).unwrap_or(u32::MAX);
        self.overwrite(self.last, &length.to_ne_bytes());
        self.count += 1;
    }

    /// Has the kernel acknowledge the last message, which then stands for all.
    ///
    /// An acknowledgement for each would be one more thing to wait for in vain: without
    /// `CAP_NET_ADMIN`, a whole batch of nf_tables messages is answered by a single `EPERM`.
    pub fn acknowledge_last(&mut self) {
        let at = self.last + 6;
        let flags = number(&self.bytes, at).map_or(0, u16::from_ne_bytes);
        self.overwrite(at, &(flags | ACK).to_ne_bytes());
    }

    /// The messages, as the kernel takes them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn overwrite(&mut self, at: usize, value: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }
}

/// Appends attributes to a message or to another attribute.
pub struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    /// An attribute with these bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.with(kind, |buffer| buffer.extend(value))
    }

    /// A string, ended by a zero byte.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.with(kind, |buffer| {
            buffer.extend(value.as_bytes());
            buffer.push(0);
        })
    }

    /// A number in network byte order, which is netfilter's.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// An attribute that holds attributes.
    pub fn nest(&mut self, kind: u16, attributes: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.with(kind | NESTED, |buffer| attributes(&mut Attributes(buffer)))
    }

    fn with(&mut self, kind: u16, value: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        value(self.0);
        // What does not fit (64 KiB) gets a length that the kernel refuses; who writes lists splits them.
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        if let Some(place) = self.0.get_mut(start..start + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
        self
    }
}

/// A message that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// `NLMSG_*`, or a type of its family's.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// That of the request that it answers.
    pub sequence: u32,
    /// The header of its family, and its attributes.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes after a family's header of `header` bytes.
    pub fn attributes(&self, header: usize) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        attributes(self.payload.get(header..).unwrap_or_default())
    }
}

/// An attribute that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its type, without flags.
    pub kind: u16,
    /// Whether it says that it holds attributes; the kernel does not always say so.
    pub nested: bool,
    /// What it holds.
    pub value: &'a [u8],
}

/// Reads messages up to the end, or to the first one that is cut off.
pub fn messages(bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(number(rest, 0)?)).ok()?;
        let message = Message {
            kind: u16::from_ne_bytes(number(rest, 4)?),
            flags: u16::from_ne_bytes(number(rest, 6)?),
            sequence: u32::from_ne_bytes(number(rest, 8)?),
            payload: rest.get(HEADER..length)?,
        };
        rest = rest
            .get(length.next_multiple_of(ALIGNMENT)..)
            .unwrap_or_default();
        Some(message)
    })
}

/// Reads attributes up to the end, or to the first one that is cut off.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(number(rest, 0)?));
        let kind = u16::from_ne_bytes(number(rest, 2)?);
        let attribute = Attribute {
            kind: kind & !TYPE_FLAGS,
            nested: kind & NESTED != 0,
            value: rest.get(ATTRIBUTE_HEADER..length)?,
        };
        rest = rest
            .get(length.next_multiple_of(ALIGNMENT)..)
            .unwrap_or_default();
        Some(attribute)
    })
}

/// The first attribute of a type.
pub fn find<'a>(
    mut attributes: impl Iterator<Item = Attribute<'a>>,
    kind: u16,
) -> Option<&'a [u8]> {
    attributes
        .find(|attribute| attribute.kind == kind)
        .map(|attribute| attribute.value)
}

/// The bytes of a number at an offset, if they are there.
pub fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests;
