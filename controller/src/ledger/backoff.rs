//! How long a Service waits after writes that failed.

use std::collections::HashMap;

use jiff::SignedDuration;

use crate::facts::ServiceKey;

/// The pause after the first failure; each further one doubles it.
const FIRST: SignedDuration = SignedDuration::from_millis(100);

/// The longest pause.
const LONGEST: SignedDuration = SignedDuration::from_secs(30);

/// The failures of each Service since its last success.
#[derive(Debug, Default)]
pub(super) struct Backoff(HashMap<ServiceKey, u32>);

impl Backoff {
    /// A write for the Service has failed: how long until it is looked at again.
    pub(super) fn failed(&mut self, service: &ServiceKey) -> SignedDuration {
        let failures = self.0.entry(service.clone()).or_default();
        let doubled = FIRST.saturating_mul(2_i32.saturating_pow(*failures));
        *failures = failures.saturating_add(1);
        doubled.min(LONGEST)
    }

    /// All writes for the Service have succeeded, or it is gone.
    pub(super) fn succeeded(&mut self, service: &ServiceKey) {
        self.0.remove(service);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::default();
        let service = ServiceKey::new("default", "web");
        let pauses: Vec<_> = (0..40)
            .map(|_| backoff.failed(&service).as_millis())
            .collect();
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!(pauses[39], LONGEST.as_millis());
        backoff.succeeded(&service);
        assert_eq!(backoff.failed(&service), FIRST);
    }
}
