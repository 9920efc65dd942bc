//! What can go wrong with a cluster, whatever part of it.

use std::fmt;
use std::fs;
use std::io;
use std::iter;
use std::path::{Path, PathBuf};

use crate::component::Component;
use crate::paths::Paths;
use crate::progress::Interrupted;
use crate::{
    certificates, client, down, files, host, images, kubeconfig, namespaces, options, prepare,
    requirements, state,
};

/// The last lines of a component's log.
#[derive(Debug)]
pub struct LogTail {
    /// The whole log, or a copy where the cluster's folder goes. None if there was no room for one.
    pub path: Option<PathBuf>,
    /// Its last lines.
    pub lines: String,
}

impl LogTail {
    /// Copies the log out of a folder that will be removed.
    fn keep(&mut self, place: &Path) {
        let copy = |log: &Path| -> io::Result<()> {
            place.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::copy(log, place).map(drop)
        };
        let kept = self.path.as_deref().is_some_and(|log| copy(log).is_ok());
        self.path = kept.then(|| place.to_owned());
    }
}

impl fmt::Display for LogTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, lines } = self;
        match path {
            Some(path) => write!(f, "its log, {}, ends with\n{lines}", path.display()),
            None => write!(f, "its log ends with\n{lines}"),
        }
    }
}

/// What went wrong with a cluster.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the variants that wrap another module's error say nothing of their own"
)]
pub enum Error {
    /// A component has ended while it was waited for.
    #[error("{component} on {host} has ended; {tail}")]
    Ended {
        component: Component,
        host: String,
        tail: LogTail,
    },
    /// A component did not do what it was waited for.
    #[error("{component} on {host} is not ready after {seconds} s ({seen}); {tail}")]
    NotReady {
        component: Component,
        host: String,
        seconds: u64,
        seen: String,
        tail: LogTail,
    },
    /// The API server refused or did not answer.
    #[error("cannot {action}")]
    Ask {
        action: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
    /// No host of this name.
    #[error("there is no host `{name}`: there are {}", names.join(", "))]
    NoSuchHost { name: String, names: Vec<String> },
    /// There is nothing to be looked at from within.
    #[error("pod {namespace}/{pod} does not run")]
    PodNotRunning { namespace: String, pod: String },
    #[error(transparent)]
    Options(#[from] options::Error),
    #[error(transparent)]
    Requirements(#[from] requirements::Error),
    #[error(transparent)]
    Prepare(#[from] prepare::Error),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error(transparent)]
    Namespaces(#[from] namespaces::Error),
    #[error(transparent)]
    Certificates(#[from] certificates::Error),
    #[error(transparent)]
    Kubeconfig(#[from] kubeconfig::Error),
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error(transparent)]
    Host(#[from] host::Error),
    #[error(transparent)]
    Images(#[from] images::Error),
    #[error(transparent)]
    Down(#[from] down::Error),
    #[error(transparent)]
    File(#[from] files::Error),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl Error {
    /// If it is about a component's log: sees to it that the log outlives the cluster.
    pub(crate) fn keep_log(mut self, paths: &Paths) -> Self {
        if let Self::Ended {
            component,
            host,
            tail,
        }
        | Self::NotReady {
            component,
            host,
            tail,
            ..
        } = &mut self
        {
            tail.keep(&paths.kept_log(host, *component));
        }
        self
    }

    /// For `map_err` on a request to the API server.
    pub(crate) fn ask(action: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Ask {
            action,
            source: Box::new(source),
        }
    }
}

/// An error and its causes in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_the_error() {
        let error = client::Error::Runtime(std::io::ErrorKind::OutOfMemory.into());
        assert_eq!(
            with_causes(&error),
            "cannot start an asynchronous runtime: out of memory"
        );
    }
}
