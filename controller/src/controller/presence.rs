//! Whether this replica works: it holds the Lease, and the API server answers.

use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};

use super::{Controller, Ended, Parts};
use crate::memory::Memory;
use crate::watch as watches;

/// Without an answer for this long the API server counts as silent.
pub(super) const SILENT_AFTER: SignedDuration = SignedDuration::from_secs(5);

impl Controller {
    /// Looks whether the API server has stopped answering.
    pub(super) fn notice_silence(&mut self) {
        let Some(answered) = self.parts.seen.borrow().answered else {
            return;
        };
        if !self.silent && Timestamp::now().duration_since(answered) >= SILENT_AFTER {
            tracing::warn!("the API server does not answer: nothing changes until it does");
            self.silent = true;
            self.ledger.memory.api_silent(answered);
        }
    }

    /// The API server has answered. Only the Lease's reader says so: a watch says that it begins before it has asked, and
    /// what the watches show while the Lease cannot be read would start them anew each time.
    fn answered(&mut self) {
        if !self.silent {
            return;
        }
        tracing::info!("the API server answers again");
        self.silent = false;
        self.ledger.memory.api_answers(Timestamp::now());
        // A watch whose connection is dead without saying so would miss everything for minutes.
        let Parts {
            client,
            settings,
            streaming_lists,
            ..
        } = &self.parts;
        self.changes = watches::start(client, settings, *streaming_lists);
        self.ledger.look_at_all(Timestamp::now());
    }

    /// The Lease has been read.
    pub(super) fn hear(&mut self) {
        self.answered();
        let seen = self.parts.seen.borrow_and_update();
        let other = seen
            .holder
            .as_ref()
            .is_some_and(|(holder, _)| *holder != self.parts.identity);
        drop(seen);
        self.superseded |= other;
    }

    /// Looks whether this replica holds the Lease.
    pub(super) fn notice_leadership(&mut self) {
        let now = Timestamp::now();
        let leads = self.parts.seen.borrow().leads(&self.parts.identity, now);
        if leads == self.leading {
            return;
        }
        self.leading = leads;
        self.parts.metrics.leading(leads);
        if !leads {
            tracing::warn!("this replica does not hold the Lease any more: it only watches");
            return;
        }
        tracing::info!(
            identity = self.parts.identity,
            "this replica holds the Lease: it works"
        );
        if std::mem::take(&mut self.superseded) {
            self.ledger.memory = Memory::new(now);
        }
        self.ledger.look_at_all(now);
        let hands = self.parts.hands.clone();
        let namespace = self.parts.settings.namespace.clone();
        self.under_way
            .push(async move { Ended::Account(hands.ensure_account(&namespace).await) }.boxed());
    }
}

#[cfg(test)]
mod tests;
