//! The calls that nix has no safe form of: socket options, one of which holds a pointer, and a wait for
//! signals that ends. The only `unsafe` in the library.
#![expect(unsafe_code, reason = "raw calls; each has its reason beside it")]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{self, c_int, socklen_t};
use nix::sys::signal::SigSet;
use nix::sys::time::TimeSpec;

use crate::config::Family;
use crate::iptables::layout::{
    COUNTERS, REPLACE, REPLACE_COUNTERS, REPLACE_NUM_COUNTERS, REPLACE_SIZE,
};

/// `IPT_SO_GET_*` of linux/netfilter_ipv4/ip_tables.h; the `IP6T_SO_GET_*` have the same numbers.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(crate) enum XtablesGet {
    /// `IPT_SO_GET_INFO`
    Info = 64,
    /// `IPT_SO_GET_ENTRIES`
    Entries = 65,
}

const IPT_SO_SET_REPLACE: c_int = 64;
const IPT_SO_SET_ADD_COUNTERS: c_int = 65;

/// Asks the kernel with the request in `buffer` and lets it write its answer over it.
pub(crate) fn xtables_get(
    socket: BorrowedFd<'_>,
    family: Family,
    option: XtablesGet,
    buffer: &mut [u8],
) -> Result<(), Errno> {
    let mut length = length(buffer)?;
    // SAFETY: the kernel reads and writes at most `length` bytes of `buffer`, which lives until the
    // call is over; neither option has a pointer in it.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level(family),
            option as c_int,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    Errno::result(result).map(drop)
}

/// `IPT_SO_SET_REPLACE` with the `struct ipt_replace` and the entries in `request`; the old entries'
/// counters are written to `counters`, of which there must be as many as old entries (else `EAGAIN`).
pub(crate) fn xtables_replace(
    socket: BorrowedFd<'_>,
    family: Family,
    request: &mut [u8],
    counters: &mut [[u8; COUNTERS]],
) -> Result<(), Errno> {
    let number = u32::try_from(counters.len()).map_err(|_| Errno::EINVAL)?;
    let entries = request.len().checked_sub(REPLACE).ok_or(Errno::EINVAL)?;
    let entries = u32::try_from(entries).map_err(|_| Errno::EINVAL)?;
    put(request, REPLACE_SIZE, entries.to_ne_bytes());
    put(request, REPLACE_NUM_COUNTERS, number.to_ne_bytes());
    let pointer = counters.as_mut_ptr().expose_provenance();
    put(request, REPLACE_COUNTERS, pointer.to_ne_bytes());
    // SAFETY: the kernel reads `struct ipt_replace` and as many bytes of entries as its `size` says,
    // which is the rest of `request`, and writes `num_counters` counters of `COUNTERS` bytes to where
    // `counters` points. Both were set above from the two slices, which live until the call is over.
    unsafe { set(socket, family, IPT_SO_SET_REPLACE, request) }
}

/// `IPT_SO_SET_ADD_COUNTERS` with a `struct xt_counters_info` and its counters.
pub(crate) fn xtables_add_counters(
    socket: BorrowedFd<'_>,
    family: Family,
    request: &[u8],
) -> Result<(), Errno> {
    // SAFETY: this option has no pointer in it, and the kernel refuses it if its number of counters
    // does not go with its length.
    unsafe { set(socket, family, IPT_SO_SET_ADD_COUNTERS, request) }
}

/// Has the kernel answer a refusal without the whole message that it is about (`NETLINK_CAP_ACK`): that
/// may be far longer than any answer, and what is cut off has no errno. Needs Linux 4.3.
pub(crate) fn netlink_cap_ack(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let on: c_int = 1;
    // SAFETY: the kernel reads an `int` from `on`, which lives until the call is over.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_CAP_ACK,
            (&raw const on).cast(),
            size_of::<c_int>() as socklen_t,
        )
    };
    Errno::result(result).map(drop)
}

/// Waits for one of these signals, which are blocked, but not longer than `time`; tells whether one came.
pub(crate) fn signal_within(signals: &SigSet, time: Duration) -> bool {
    let time = TimeSpec::from_duration(time);
    // SAFETY: the kernel reads the set and the time, which live until the call is over, and writes
    // nothing about the signal if it is not given where.
    let signal = unsafe { libc::sigtimedwait(signals.as_ref(), ptr::null_mut(), time.as_ref()) };
    signal > 0
}

/// # Safety
///
/// Any pointer in `value` must be valid for what the kernel does with it.
unsafe fn set(
    socket: BorrowedFd<'_>,
    family: Family,
    option: c_int,
    value: &[u8],
) -> Result<(), Errno> {
    let length = length(value)?;
    // SAFETY: the kernel reads at most `length` bytes of `value`, which lives until the call is over;
    // pointers in it are the caller's.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level(family),
            option,
            value.as_ptr().cast(),
            length,
        )
    };
    Errno::result(result).map(drop)
}

fn level(family: Family) -> c_int {
    match family {
        Family::V4 => libc::IPPROTO_IP,
        Family::V6 => libc::IPPROTO_IPV6,
    }
}

fn length(bytes: &[u8]) -> Result<socklen_t, Errno> {
    socklen_t::try_from(bytes.len()).map_err(|_| Errno::EINVAL)
}

fn put<const N: usize>(bytes: &mut [u8], offset: usize, value: [u8; N]) {
    bytes[offset..offset + N].copy_from_slice(&value);
}
