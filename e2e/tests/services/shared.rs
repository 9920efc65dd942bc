//! The clusters that nearly all tests share: a test has one of them to itself while it runs.

use std::env;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use svclb_e2e::Options;

use crate::world::World;

/// So many tests run at the same time, each on a cluster of its own: most of what they do is wait.
const AT_A_TIME: usize = 2;
/// The environment variable that names a cluster that is up, with svclb in it, to be used in place of those that come
/// up here: that saves time while tests are written.
const ATTACH: &str = "SVCLB_E2E_ATTACH";

/// They come up when they are first needed.
#[derive(Default)]
pub(crate) struct Shared {
    idle: Mutex<Vec<World>>,
    brought_up: AtomicUsize,
}

impl Shared {
    /// How many tests may run at the same time, of as many as were asked for.
    pub(crate) fn threads(asked: Option<usize>) -> usize {
        if env::var_os(ATTACH).is_some() {
            return 1;
        }
        asked.unwrap_or(AT_A_TIME).clamp(1, AT_A_TIME)
    }

    /// Runs a test in one of them.
    pub(crate) fn with<T>(&self, test: impl FnOnce(&World) -> Result<T>) -> Result<T> {
        let idle = self.idle().pop();
        let world = match idle {
            Some(world) => world,
            None => self.another()?,
        };
        let outcome = test(&world);
        self.idle().push(world);
        outcome
    }

    fn another(&self) -> Result<World> {
        if let Ok(name) = env::var(ATTACH) {
            return World::attach(&name);
        }
        // No name twice: one that has just been in use may still be going.
        let number = 1 + self.brought_up.fetch_add(1, Ordering::Relaxed);
        World::up(&Options {
            name: format!("services-{number}"),
            ..Options::default()
        })
    }

    /// Takes down those that no test uses at the moment.
    pub(crate) fn end_idle(&self) {
        let idle: Vec<World> = self.idle().drain(..).collect();
        drop(idle);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<World>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
