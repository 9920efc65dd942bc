//! Which Services a change concerns.

use std::collections::BTreeSet;

use crate::facts::ServiceKey;

/// A namespaced object's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectKey {
    /// A key of two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// The Services that a change concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Every Service that there is.
    pub all: bool,
    /// These. A key may be of a Service that is gone: its DaemonSet is to go too.
    pub services: BTreeSet<ServiceKey>,
}

impl Touched {
    pub(super) fn nothing() -> Self {
        Self::default()
    }

    pub(super) fn everything() -> Self {
        Self {
            all: true,
            services: BTreeSet::new(),
        }
    }

    pub(super) fn these(services: impl IntoIterator<Item = ServiceKey>) -> Self {
        Self {
            all: false,
            services: services.into_iter().collect(),
        }
    }

    /// What either concerns.
    pub fn merge(&mut self, other: Self) {
        self.all |= other.all;
        self.services.extend(other.services);
    }

    /// Does the change concern nobody?
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        !self.all && self.services.is_empty()
    }
}
