//! The legacy xtables backend, for kernels without nf_tables: tables are read from the kernel, our
//! chains are put in, and the tables are written back, by socket options alone.
//!
//! Only our own chains and the jumps to them are ever touched. A table is replaced in one go, and not
//! at all if everything is in place, so that a restarted container changes nothing.

mod chains;
mod extensions;
pub(crate) mod layout;
mod lock;
mod merge;
mod rule;
mod socket;
mod table;

use std::fs;
use std::io;

use nix::errno::Errno;

use crate::config::Family;
use crate::rules::{Kind, Rules};
use layout::COUNTERS;
use lock::Lock;
use merge::Ours;
use socket::TableSocket;
use table::Table;

pub use table::Entries;

/// The tables that hold our rules, in the order in which they are written.
const TABLES: [Kind; 2] = [Kind::Filter, Kind::Nat];
/// How often a table is read anew because somebody else wrote it in between.
const ATTEMPTS: usize = 100;

/// Why the rules are not in place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rules ask for what only nf_tables has.
    #[error("legacy iptables has no words for the rules {name}")]
    Inexpressible {
        /// Their name.
        name: String,
    },
    /// Another process keeps its hands on the tables.
    #[error("cannot lock the iptables tables")]
    Lock(#[source] io::Error),
    /// A signal said so.
    #[error("told to end while another process held the iptables tables")]
    Stopped,
    /// The kernel has no legacy xtables, or not for this family.
    #[error("the node's kernel has no {family} iptables table {table} (module {module})", module = module(*family, table))]
    Missing {
        /// Whose table.
        family: Family,
        /// Its name.
        table: &'static str,
        /// What the kernel says.
        #[source]
        source: Errno,
    },
    /// The kernel refuses to show a table.
    #[error("cannot read the {family} iptables table {table}")]
    Read {
        /// Whose table.
        family: Family,
        /// Its name.
        table: &'static str,
        /// What the kernel says.
        #[source]
        source: Errno,
    },
    /// A table is not what iptables would have written.
    #[error("cannot understand the {family} iptables table {table}")]
    Decode {
        /// Whose table.
        family: Family,
        /// Its name.
        table: &'static str,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
    /// A rule of somebody else's jumps to a chain of ours that has to go.
    #[error("cannot remove a chain of the {family} iptables table {table}: a rule jumps to it")]
    InUse {
        /// Whose table.
        family: Family,
        /// Its name.
        table: &'static str,
    },
    /// The kernel refuses a table.
    #[error("cannot replace the {family} iptables table {table}")]
    Replace {
        /// Whose table.
        family: Family,
        /// Its name.
        table: &'static str,
        /// What the kernel says.
        #[source]
        source: Errno,
    },
}

/// The module that has a table, and needs what else there is to be needed; it may be built in.
fn module(family: Family, table: &str) -> String {
    match family {
        Family::V4 => format!("iptable_{table}"),
        Family::V6 => format!("ip6table_{table}"),
    }
}

/// What is wrong with the entries of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// An entry does not fit.
    #[error("the entry at byte {offset} is damaged")]
    Entry {
        /// Where it begins.
        offset: usize,
    },
    /// A jump leads elsewhere than to the first rule of a chain.
    #[error("a jump leads to byte {offset}, where no chain begins")]
    Jump {
        /// Where it leads.
        offset: usize,
    },
    /// A chain lacks its last rule: the policy or the return.
    #[error("a chain does not end as chains do")]
    Chain,
}

/// Puts the rules in place, table by table, and `filter` before `nat`: whatever ends this process in
/// between, nothing passes that neither the old rules nor the new ones let pass.
pub fn install(rules: &Rules) -> Result<(), Error> {
    if !chains::is_expressible(rules) {
        let name = rules.name.clone();
        return Err(Error::Inexpressible { name });
    }
    let _lock = Lock::take()?;
    for family in Family::ALL {
        for kind in TABLES {
            let ours = chains::ours(rules, kind, family);
            match KernelTable::new(kind, family).put(&ours) {
                // Where nothing is forwarded anyway, there is nothing to keep out.
                Err(Error::Missing { .. }) if !chains::is_forwarded(rules, family) => {}
                result => result?,
            }
        }
    }
    Ok(())
}

/// Whether [`install`] would change nothing.
pub fn in_place(rules: &Rules) -> Result<bool, Error> {
    if !chains::is_expressible(rules) {
        return Ok(false);
    }
    // To ask the kernel for a table is to set it up, so the tables that have to be there come first.
    let mut forwarded = Family::ALL
        .into_iter()
        .filter(|&family| chains::is_forwarded(rules, family));
    let is_set_up = |family| {
        TABLES
            .iter()
            .all(|&kind| KernelTable::new(kind, family).is_set_up())
    };
    if !forwarded.all(is_set_up) {
        return Ok(false);
    }
    for family in Family::ALL {
        for kind in TABLES {
            let ours = chains::ours(rules, kind, family);
            match KernelTable::new(kind, family).has(&ours) {
                Err(Error::Missing { .. }) if !chains::is_forwarded(rules, family) => {}
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(true)
}

/// Whether there is any chain of the rules of that name.
pub fn is_there(name: &str) -> Result<bool, Error> {
    for table in tables_set_up() {
        match table.has(&Ours::nothing(name)) {
            Ok(true) | Err(Error::Missing { .. }) => {}
            Ok(false) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Takes away the chains of the rules of that name, if there are any. `nat` goes before `filter`,
/// so that nothing is forwarded unfiltered.
pub fn remove(name: &str) -> Result<(), Error> {
    let tables: Vec<_> = tables_set_up().collect();
    if tables.is_empty() {
        return Ok(());
    }
    let _lock = Lock::take()?;
    for table in tables {
        match table.put(&Ours::nothing(name)) {
            Err(Error::Missing { .. }) => {}
            result => result?,
        }
    }
    Ok(())
}

/// `nat` before `filter`.
fn tables_set_up() -> impl Iterator<Item = KernelTable> {
    let tables = Family::ALL
        .into_iter()
        .flat_map(|family| [Kind::Nat, Kind::Filter].map(|kind| KernelTable::new(kind, family)));
    tables.filter(|table| table.is_set_up())
}

/// The entries of a table that holds nothing but what these rules put into it: [`install`] without a
/// kernel. `None` if they are more than the kernel's offsets of 31 bits reach.
pub fn encode(rules: &Rules, kind: Kind, family: Family) -> Option<Entries> {
    let hooks = match kind {
        Kind::Filter => [1, 2, 3].as_slice(), // input, forward, output
        Kind::Nat => &[0, 1, 3, 4],           // prerouting, input, output, postrouting
    };
    let ours = chains::ours(rules, kind, family);
    Table::untouched(family, hooks).with(&ours).encode()
}

/// One table of one family in the kernel.
#[derive(Clone, Copy)]
struct KernelTable {
    family: Family,
    name: &'static str,
}

impl KernelTable {
    fn new(kind: Kind, family: Family) -> Self {
        let name = match kind {
            Kind::Filter => "filter",
            Kind::Nat => "nat",
        };
        Self { family, name }
    }

    /// Whether anybody has used it in this network namespace; asking the kernel for it would set it up.
    fn is_set_up(self) -> bool {
        let names = match self.family {
            Family::V4 => "/proc/thread-self/net/ip_tables_names",
            Family::V6 => "/proc/thread-self/net/ip6_tables_names",
        };
        match fs::read_to_string(names) {
            Ok(names) => names.lines().any(|name| name == self.name),
            // Without the list (only root may read it) the table itself has to tell.
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    fn has(self, ours: &Ours) -> Result<bool, Error> {
        if ours.chains.is_empty() && !self.is_set_up() {
            return Ok(true);
        }
        let (_, _, table) = self.read()?;
        Ok(table.clone().with(ours) == table)
    }

    /// Puts our chains in and takes out those that are no longer wanted.
    fn put(self, ours: &Ours) -> Result<(), Error> {
        let Self {
            family,
            name: table,
        } = self;
        if ours.chains.is_empty() && !self.is_set_up() {
            return Ok(());
        }
        for attempt in 1.. {
            let (socket, old_number, old) = self.read()?;
            let new = old.clone().with(ours);
            if new == old {
                break;
            }
            let entries = new.encode().ok_or(Error::InUse { family, table })?;
            match socket.replace(&entries, old_number) {
                Ok(counters) => {
                    keep_counting(&socket, &new, &counters);
                    break;
                }
                Err(Errno::EAGAIN) if attempt < ATTEMPTS => {}
                Err(source) => {
                    return Err(Error::Replace {
                        family,
                        table,
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    fn read(self) -> Result<(TableSocket, usize, Table), Error> {
        let Self {
            family,
            name: table,
        } = self;
        let refused = |source| match source {
            // No such family, no such option, no such table.
            Errno::EAFNOSUPPORT | Errno::ENOPROTOOPT | Errno::ENOENT => Error::Missing {
                family,
                table,
                source,
            },
            _ => Error::Read {
                family,
                table,
                source,
            },
        };
        let socket = TableSocket::open(family, table).map_err(refused)?;
        let entries = socket.read().map_err(refused)?;
        let chains = Table::decode(family, &entries).map_err(|source| Error::Decode {
            family,
            table,
            source,
        })?;
        Ok((socket, entries.number, chains))
    }
}

/// Gives the rules that were there before what they had counted.
fn keep_counting(socket: &TableSocket, table: &Table, old: &[[u8; COUNTERS]]) {
    let zero = [0; COUNTERS];
    let counters: Vec<_> = table
        .counted_as()
        .into_iter()
        .map(|number| number.and_then(|number| old.get(number)).unwrap_or(&zero))
        .copied()
        .collect();
    if counters.iter().any(|counter| *counter != zero) {
        // The rules are in place. Numbers are refused only if somebody has replaced the table since,
        // and then they are no longer ours to restore.
        let _ = socket.add_counters(&counters);
    }
}
