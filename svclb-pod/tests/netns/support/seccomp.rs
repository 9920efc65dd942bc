//! Seccomp filters: one plays a kernel without a netlink family, or a container that may not use it; one
//! allows what a container runtime does, and less.

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
fn forbid(command: Command, call: i64, wanted: &[(u32, u32)], errno: Errno) -> Command {
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
    install(command, filter)
}

/// What it takes of containerd's default profile, which has all of these without a condition but for
/// `socket` (that one excepts AF_VSOCK), and some that another C library would take in their place.
#[rustfmt::skip]
const CALLS: &[i64] = &[
    // To become the program, and to begin.
    libc::SYS_execve, libc::SYS_brk, libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap,
    libc::SYS_mprotect, libc::SYS_madvise, libc::SYS_set_tid_address, libc::SYS_set_robust_list,
    libc::SYS_rseq, libc::SYS_prlimit64, libc::SYS_readlinkat, libc::SYS_getrandom, libc::SYS_futex,
    libc::SYS_getpid, libc::SYS_gettid, libc::SYS_rt_sigaction, libc::SYS_sigaltstack,
    // Signals, time, and the end.
    libc::SYS_rt_sigprocmask, libc::SYS_rt_sigtimedwait, libc::SYS_signalfd4, libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep, libc::SYS_nanosleep, libc::SYS_exit, libc::SYS_exit_group,
    // Files: of /proc, and what it says.
    libc::SYS_openat, libc::SYS_statx, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_lseek,
    libc::SYS_read, libc::SYS_write, libc::SYS_writev, libc::SYS_close, libc::SYS_fcntl, libc::SYS_ppoll,
    // The kernel's interfaces.
    libc::SYS_socket, libc::SYS_bind, libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    #[cfg(target_arch = "x86_64")] libc::SYS_arch_prctl,
    #[cfg(target_arch = "x86_64")] libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")] libc::SYS_poll,
];

/// Has the command's process get EPERM, as from containerd's default profile, for all other system calls.
pub(crate) fn allow_what_it_takes(command: Command) -> Command {
    let mut filter = vec![load(0)];
    for &call in CALLS {
        filter.push(unless_equal_skip(u32::try_from(call).unwrap(), 1));
        filter.push(result(libc::SECCOMP_RET_ALLOW));
    }
    filter.push(result(libc::SECCOMP_RET_ERRNO | Errno::EPERM as u32));
    install(command, filter)
}

/// Has the command's process under this filter from when it becomes the program.
#[expect(
    unsafe_code,
    reason = "neither std nor nix can install a seccomp filter"
)]
fn install(mut command: Command, mut filter: Vec<libc::sock_filter>) -> Command {
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
