//! The kernel's door to its tables: `IPT_SO_*` and `IP6T_SO_*` of `linux/netfilter_ipv4/ip_tables.h`
//! and `linux/netfilter_ipv6/ip6_tables.h` on a socket of the family. Needs `CAP_NET_ADMIN` in the
//! network namespace.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::layout::{COUNTERS, COUNTERS_INFO, GET_ENTRIES, GET_INFO, HOOKS, REPLACE, TABLE_NAME};
use super::table::Entries;
use crate::config::Family;
use crate::sys::{self, XtablesGet};

/// One table of one family in this process's network namespace.
pub(super) struct TableSocket {
    socket: OwnedFd,
    family: Family,
    name: [u8; TABLE_NAME],
}

impl TableSocket {
    pub(super) fn open(family: Family, table: &str) -> Result<Self, Errno> {
        let domain = match family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        // A datagram socket will do; a raw one would need CAP_NET_RAW.
        let socket = socket(domain, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        let mut name = [0; TABLE_NAME];
        for (to, from) in name.iter_mut().zip(table.bytes().take(TABLE_NAME - 1)) {
            *to = from;
        }
        Ok(Self {
            socket,
            family,
            name,
        })
    }

    /// The table's entries. The first to ask makes the kernel set up the table.
    pub(super) fn read(&self) -> Result<Entries, Errno> {
        loop {
            let mut entries = self.info()?;
            let mut request = self.name.to_vec();
            request.extend((entries.bytes.len() as u32).to_ne_bytes());
            request.resize(GET_ENTRIES + entries.bytes.len(), 0);
            match self.get(XtablesGet::Entries, &mut request) {
                Ok(()) => {
                    entries.bytes.copy_from_slice(&request[GET_ENTRIES..]);
                    return Ok(entries);
                }
                // Somebody changed its size since it was asked for.
                Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn get(&self, option: XtablesGet, buffer: &mut [u8]) -> Result<(), Errno> {
        sys::xtables_get(self.socket.as_fd(), self.family, option, buffer)
    }

    /// Hooks, number of entries, and room for them.
    fn info(&self) -> Result<Entries, Errno> {
        let mut info = [0; GET_INFO];
        info[..TABLE_NAME].copy_from_slice(&self.name);
        self.get(XtablesGet::Info, &mut info)?;
        let words: Vec<u32> = info[TABLE_NAME..]
            .as_chunks()
            .0
            .iter()
            .map(|word| u32::from_ne_bytes(*word))
            .collect();
        let hooks =
            |from: usize| -> [u32; HOOKS] { std::array::from_fn(|hook| words[from + hook]) };
        Ok(Entries {
            valid_hooks: words[0],
            hook_entry: hooks(1),
            underflow: hooks(1 + HOOKS),
            number: words[1 + 2 * HOOKS] as usize,
            bytes: vec![0; words[2 + 2 * HOOKS] as usize],
        })
    }

    /// Puts `entries` in the place of a table that has `old_number` of them now, and gives what the
    /// old ones had counted to the last packet. `EAGAIN`: it has another number of them by now.
    pub(super) fn replace(
        &self,
        entries: &Entries,
        old_number: usize,
    ) -> Result<Vec<[u8; COUNTERS]>, Errno> {
        let mut request = self.name.to_vec();
        // Hooks, number and size of the entries, hooks' entries and underflows.
        let words = [entries.valid_hooks, entries.number as u32, 0];
        let words = words.iter().chain(&entries.hook_entry);
        request.extend(
            words
                .chain(&entries.underflow)
                .flat_map(|word| word.to_ne_bytes()),
        );
        request.resize(REPLACE, 0);
        request.extend(&entries.bytes);
        let mut counters = vec![[0; COUNTERS]; old_number];
        sys::xtables_replace(
            self.socket.as_fd(),
            self.family,
            &mut request,
            &mut counters,
        )?;
        Ok(counters)
    }

    /// Lets new entries go on where the old ones' counters had got to; one for each entry.
    pub(super) fn add_counters(&self, counters: &[[u8; COUNTERS]]) -> Result<(), Errno> {
        let mut request = self.name.to_vec();
        request.extend((counters.len() as u32).to_ne_bytes());
        request.resize(COUNTERS_INFO, 0);
        request.extend(counters.iter().flatten());
        sys::xtables_add_counters(self.socket.as_fd(), self.family, &request)
    }
}
