//! Which of the two kernel interfaces is used. That is found out by trying, never by looking for a
//! module: what is built into the kernel has none, and what is there may still be forbidden.

use std::error::Error as StdError;

use nix::errno::Errno;

use crate::config::Backend;
use crate::netlink::Socket;
use crate::rules::Rules;
use crate::{iptables, nftables};

/// Why the rules are not in place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel lets this process change no rules at all.
    #[error(
        "not allowed to change the network's rules; the container lacks CAP_NET_ADMIN, or its seccomp \
         profile forbids it"
    )]
    NotPermitted(#[source] Box<Error>),
    /// nf_tables did not work, and nothing else was to be tried.
    #[error("cannot use nf_tables")]
    Nftables(#[source] nftables::Error),
    /// Legacy xtables was asked for, and did not work.
    #[error("cannot use legacy iptables")]
    Iptables(#[source] iptables::Error),
    /// Neither worked.
    #[error("cannot use nf_tables ({}), nor legacy iptables", one_line(nftables))]
    Neither {
        /// Why not nf_tables.
        nftables: nftables::Error,
        /// Why not the other.
        #[source]
        iptables: iptables::Error,
    },
}

impl Error {
    /// Whether nothing went wrong but that a signal came that ends the process.
    pub fn is_stop(&self) -> bool {
        matches!(
            self,
            Self::Iptables(iptables::Error::Stopped)
                | Self::Neither {
                    iptables: iptables::Error::Stopped,
                    ..
                }
        )
    }
}

/// What holds the rules.
#[derive(Debug)]
pub enum Installed {
    /// nf_tables. The socket is for the caller to keep, see [`nftables::install`].
    Nftables(Socket),
    /// Legacy xtables, and why not nf_tables if that was tried.
    Iptables(Option<nftables::Error>),
}

impl Installed {
    /// The backend.
    pub fn backend(&self) -> Backend {
        match self {
            Self::Nftables(_) => Backend::Nftables,
            Self::Iptables(_) => Backend::Iptables,
        }
    }
}

/// Puts the rules in place with the backend asked for, or else with the first one that works.
pub fn install(rules: &Rules, asked_for: Option<Backend>) -> Result<Installed, Error> {
    let installed = match asked_for {
        Some(Backend::Nftables) => nftables::install(rules)
            .map(Installed::Nftables)
            .map_err(Error::Nftables),
        Some(Backend::Iptables) => iptables::install(rules)
            .map(|()| Installed::Iptables(None))
            .map_err(Error::Iptables),
        None => match nftables::install(rules) {
            Ok(socket) => Ok(Installed::Nftables(socket)),
            Err(nftables) if is_refusal(nftables) => iptables::install(rules)
                .map(|()| Installed::Iptables(Some(nftables)))
                .map_err(|iptables| Error::Neither { nftables, iptables }),
            Err(error) => Err(Error::Nftables(error)),
        },
    };
    installed.map_err(|error| {
        if is_not_permitted(&error) {
            Error::NotPermitted(Box::new(error))
        } else {
            error
        }
    })
}

/// Takes away what an earlier start in this network namespace may have left with the other backend: it
/// would drop what these rules let through.
pub fn remove_from_the_other(rules: &Rules, used: Backend) -> Result<(), Error> {
    match used {
        Backend::Nftables => iptables::remove(&rules.name).map_err(Error::Iptables),
        Backend::Iptables if is_there_by_nftables(rules)? => {
            nftables::remove(rules).map_err(Error::Nftables)
        }
        Backend::Iptables => Ok(()),
    }
}

/// Whether the rules are in place, with the backend asked for or else with either, and the other one
/// holds nothing of that name.
pub fn in_place(rules: &Rules, asked_for: Option<Backend>) -> Result<bool, Error> {
    let by_iptables =
        || Ok(iptables::in_place(rules).map_err(Error::Iptables)? && !is_there_by_nftables(rules)?);
    if asked_for == Some(Backend::Iptables) {
        return by_iptables();
    }
    match nftables::in_place(rules) {
        Ok(true) => iptables::is_there(&rules.name)
            .map(|is_there| !is_there)
            .map_err(Error::Iptables),
        Ok(false) if asked_for.is_none() => by_iptables(),
        Err(error) if asked_for.is_none() && is_refusal(error) => by_iptables(),
        result => result.map_err(Error::Nftables),
    }
}

fn is_there_by_nftables(rules: &Rules) -> Result<bool, Error> {
    match nftables::is_there(rules) {
        // What cannot be asked holds nothing that could have been put there.
        Err(error) if is_refusal(error) => Ok(false),
        result => result.map_err(Error::Nftables),
    }
}

/// Whether the kernel will not do it, as opposed to being short of something just now.
fn is_refusal(error: nftables::Error) -> bool {
    let short = [
        Errno::ENOMEM,
        Errno::ENOBUFS,
        Errno::EMFILE,
        Errno::ENFILE,
        Errno::EAGAIN,
    ];
    error.errno().is_some_and(|errno| !short.contains(&errno))
}

fn is_not_permitted(error: &Error) -> bool {
    let nftables = match error {
        Error::Neither { nftables, .. } => nftables.errno() == Some(Errno::EPERM),
        _ => true,
    };
    nftables && causes(error).any(|cause| cause.downcast_ref() == Some(&Errno::EPERM))
}

/// An error and its causes, in one line.
pub fn one_line(error: &(dyn StdError + 'static)) -> String {
    let mut line = String::new();
    for cause in causes(error) {
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause.to_string());
    }
    line
}

type Cause<'a> = &'a (dyn StdError + 'static);

fn causes<'a>(error: Cause<'a>) -> impl Iterator<Item = Cause<'a>> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}
