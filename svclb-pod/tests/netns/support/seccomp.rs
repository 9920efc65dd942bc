//! A seccomp filter that plays a kernel without a netlink family, or a container that may not use it.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;

/// What `prctl` takes is as long as a pointer.
const ON: libc::c_ulong = 1;
const OFF: libc::c_ulong = 0;

/// Bytes of `struct seccomp_data` before its arguments, of 8 bytes each.
const ARGUMENTS: u32 = 16;

/// Has the command's process get `errno` for each netlink socket of this family that it opens.
pub(crate) fn forbid_netlink(command: Command, family: u32, errno: Errno) -> Command {
    let netlink = u32::try_from(libc::AF_NETLINK).unwrap();
    forbid(
        command,
        libc::SYS_socket,
        &[(0, netlink), (2, family)],
        errno,
    )
}

/// The same for each switch of an interface's IPv4 forwarding over rtnetlink.
pub(crate) fn forbid_setlink(command: Command, errno: Errno) -> Command {
    // nlmsghdr, ifinfomsg, three attributes one in the other, and the setting: no other request is as long.
    const LENGTH: u32 = 16 + 16 + 3 * 4 + 8;
    forbid(command, libc::SYS_sendto, &[(2, LENGTH)], errno)
}

/// The same for each IPv4 table of legacy xtables that it asks for or replaces.
pub(crate) fn forbid_xtables(command: Command, errno: Errno) -> Command {
    // IPT_SO_GET_INFO and IPT_SO_SET_REPLACE are the same number.
    let option = [(1, u32::try_from(libc::IPPROTO_IP).unwrap()), (2, 64)];
    let command = forbid(command, libc::SYS_getsockopt, &option, errno);
    forbid(command, libc::SYS_setsockopt, &option, errno)
}

/// The same for a system call where these arguments, by their place, have these values.
#[expect(
    unsafe_code,
    reason = "neither std nor nix can install a seccomp filter"
)]
fn forbid(mut command: Command, call: i64, wanted: &[(u32, u32)], errno: Errno) -> Command {
    let compared = [(0, u32::try_from(call).unwrap())].into_iter();
    let compared = compared.chain(
        wanted
            .iter()
            .map(|&(index, value)| (argument(index), value)),
    );
    let mut filter = Vec::new();
    for ((offset, value), others) in compared.zip((0..=wanted.len()).rev()) {
        filter.push(load(offset));
        // Past the others, of two instructions each, and the refusal.
        filter.push(unless_equal_skip(
            value,
            u8::try_from(2 * others + 1).unwrap(),
        ));
    }
    filter.push(result(libc::SECCOMP_RET_ERRNO | errno as u32));
    filter.push(result(libc::SECCOMP_RET_ALLOW));
    let filter_mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
    let install = move || {
        let program = libc::sock_fprog {
            len: u16::try_from(filter.len()).map_err(io::Error::other)?,
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: the kernel copies `len` instructions from `filter`, which lives until the calls are
        // over.
        let failed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, ON, OFF, OFF, OFF) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, filter_mode, &raw const program) != 0
        };
        if failed {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    // SAFETY: between fork and exec it makes two system calls and allocates nothing.
    unsafe { command.pre_exec(install) };
    command
}

/// Where the lower half of an argument is.
fn argument(index: u32) -> u32 {
    ARGUMENTS + 8 * index + if cfg!(target_endian = "big") { 4 } else { 0 }
}

fn load(offset: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, offset)
}

fn unless_equal_skip(value: u32, instructions: u8) -> libc::sock_filter {
    instruction(
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        instructions,
        value,
    )
}

fn result(value: u32) -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, value)
}

fn instruction(code: u32, skip_unless: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: 0,
        jf: skip_unless,
        k,
    }
}
