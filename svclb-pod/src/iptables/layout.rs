//! Where things lie in the structures of `linux/netfilter/x_tables.h`,
//! `linux/netfilter_ipv4/ip_tables.h` and `linux/netfilter_ipv6/ip6_tables.h`.
//!
//! Offsets are computed from the architecture's alignment of a 64-bit integer and its pointer size,
//! so that they are those of the kernel wherever this is built.

use crate::config::Family;

/// `XT_TABLE_MAXNAMELEN`
pub(crate) const TABLE_NAME: usize = 32;
/// `XT_FUNCTION_MAXNAMELEN`, the room for a chain's name and its end.
pub(crate) const CHAIN_NAME: usize = 30;
/// `XT_EXTENSION_MAXNAMELEN`, the room for a match's or target's name and its end.
pub(crate) const EXTENSION_NAME: usize = 29;
/// `sizeof(struct xt_entry_match)` and `sizeof(struct xt_entry_target)`: size, name, revision.
pub(crate) const EXTENSION: usize = 2 + EXTENSION_NAME + 1;
/// `NF_INET_NUMHOOKS`
pub(crate) const HOOKS: usize = 5;
/// `sizeof(struct xt_counters)`: packets and bytes.
pub(crate) const COUNTERS: usize = 16;

/// `XT_ALIGN`: what matches, targets and with them entries are padded to.
pub(crate) const fn xt_align(size: usize) -> usize {
    size.next_multiple_of(align_of::<u64>())
}

/// `sizeof(struct xt_standard_target)`: an `int` follows the header.
pub(crate) const STANDARD_TARGET: usize = xt_align(EXTENSION + 4);
/// `sizeof(struct xt_error_target)`: a chain's name follows the header.
pub(crate) const ERROR_TARGET: usize = xt_align(EXTENSION + CHAIN_NAME);

/// `struct ipt_entry` and `struct ip6t_entry`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryLayout {
    /// `sizeof(struct ipt_ip)` or `sizeof(struct ip6t_ip6)`, after which `nfcache` lies.
    pub(crate) selector: usize,
    /// `target_offset`; `next_offset` is the next 16 bits and `comefrom` the 32 bits after it.
    pub(crate) target_offset: usize,
    /// Packets and bytes.
    pub(crate) counters: usize,
    /// Where the matches begin.
    pub(crate) size: usize,
}

impl EntryLayout {
    pub(crate) const fn of(family: Family) -> Self {
        let selector = match family {
            // Four addresses, two names and two masks of interfaces, protocol, two bytes of flags.
            Family::V4 => 4 * 4 + 4 * 16 + 2 + 2,
            // The same with longer addresses and the traffic class, padded to 32 bits.
            Family::V6 => (4 * 16 + 4 * 16 + 2 + 3usize).next_multiple_of(4),
        };
        let target_offset = selector + 4;
        let counters = xt_align(target_offset + 2 + 2 + 4);
        Self {
            selector,
            target_offset,
            counters,
            size: counters + COUNTERS,
        }
    }
}

/// `struct ipt_getinfo`: name, valid hooks, entry and underflow of each hook, number, size.
pub(crate) const GET_INFO: usize = TABLE_NAME + 4 * (1 + HOOKS + HOOKS + 2);
/// `struct ipt_get_entries`: name and size, then the entries.
pub(crate) const GET_ENTRIES: usize = xt_align(TABLE_NAME + 4);
/// `size`, that of all entries, in `struct ipt_replace`: after name, hooks and number.
pub(crate) const REPLACE_SIZE: usize = TABLE_NAME + 4 * 2;
/// `num_counters` in `struct ipt_replace`: after name, hooks, number, size, entries and underflows.
pub(crate) const REPLACE_NUM_COUNTERS: usize = TABLE_NAME + 4 * (3 + HOOKS + HOOKS);
/// The pointer `counters` in `struct ipt_replace`.
pub(crate) const REPLACE_COUNTERS: usize =
    (REPLACE_NUM_COUNTERS + 4).next_multiple_of(align_of::<usize>());
/// `struct ipt_replace` up to its entries.
pub(crate) const REPLACE: usize = xt_align(REPLACE_COUNTERS + size_of::<usize>());
/// `struct xt_counters_info`: name and number, then the counters.
pub(crate) const COUNTERS_INFO: usize = xt_align(TABLE_NAME + 4);

#[cfg(test)]
mod tests {
    use super::*;

    /// What a C compiler says for a 64-bit architecture (and for 32-bit ARM, but for the pointer).
    #[cfg(target_pointer_width = "64")]
    #[test]
    fn sizes_are_those_of_the_kernel_headers() {
        let (ipv4, ipv6) = (EntryLayout::of(Family::V4), EntryLayout::of(Family::V6));
        assert_eq!((ipv4.selector, ipv4.target_offset), (84, 88));
        assert_eq!((ipv4.counters, ipv4.size), (96, 112));
        assert_eq!((ipv6.selector, ipv6.target_offset), (136, 140));
        assert_eq!((ipv6.counters, ipv6.size), (152, 168));
        assert_eq!((EXTENSION, STANDARD_TARGET, ERROR_TARGET), (32, 40, 64));
        assert_eq!((GET_INFO, GET_ENTRIES, COUNTERS_INFO), (84, 40, 40));
        assert_eq!(
            (REPLACE_NUM_COUNTERS, REPLACE_COUNTERS, REPLACE),
            (84, 88, 96)
        );
    }
}
