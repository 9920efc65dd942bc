//! Waiting until something holds, with an error that says what was expected and what was seen instead.

use std::thread;
use std::time::{Duration, Instant};

/// Between two looks. Short against everything that is waited for, and cheap.
const PAUSE: Duration = Duration::from_millis(50);

/// What did not come about.
#[derive(Debug, thiserror::Error)]
#[error("expected within {} s: {expected}; seen: {seen}", patience.as_secs_f32())]
pub struct TimedOut {
    /// What was waited for.
    pub expected: String,
    /// How long.
    pub patience: Duration,
    /// What the last look saw.
    pub seen: String,
}

/// Looks until `probe` returns a value. Its error says what it saw instead.
pub fn until<T>(
    expected: &str,
    patience: Duration,
    mut probe: impl FnMut() -> Result<T, String>,
) -> Result<T, TimedOut> {
    let deadline = Instant::now() + patience;
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(seen) if Instant::now() >= deadline => {
                return Err(TimedOut {
                    expected: expected.to_owned(),
                    patience,
                    seen,
                });
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// `until` for asynchronous probes. A probe that hangs counts as one that saw nothing.
pub async fn until_async<T>(
    expected: &str,
    patience: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, TimedOut> {
    let deadline = tokio::time::Instant::now() + patience;
    let mut seen = "nothing yet".to_owned();
    loop {
        match tokio::time::timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(now)) if tokio::time::Instant::now() < deadline => {
                seen = now;
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Ok(Err(now)) => seen = now,
            Err(_) => {}
        }
        return Err(TimedOut {
            expected: expected.to_owned(),
            patience,
            seen,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_says_what_was_expected_and_what_was_seen() {
        let error = until("rain", Duration::ZERO, || Err::<(), _>("sun".to_owned())).unwrap_err();
        assert_eq!(error.to_string(), "expected within 0 s: rain; seen: sun");
    }

    #[test]
    fn it_looks_again_until_it_holds() {
        let mut looks = 0;
        let result = until("a third look", Duration::from_secs(60), || {
            looks += 1;
            if looks == 3 {
                Ok(looks)
            } else {
                Err(format!("look {looks}"))
            }
        });
        assert_eq!(result.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_probe_that_hangs_is_given_up() {
        let hang = async || std::future::pending::<Result<(), String>>().await;
        let error = until_async("an answer", Duration::from_millis(1), hang)
            .await
            .unwrap_err();
        assert_eq!(error.seen, "nothing yet");
    }
}
