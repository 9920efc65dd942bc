//! What a test says while it runs. Another one may run at the same time, so each line has the name of its test.

use std::cell::RefCell;

thread_local! {
    static TEST: RefCell<String> = RefCell::default();
}

/// From now on this thread speaks for this test.
pub(crate) fn speak_for(test: &str) {
    TEST.with_borrow_mut(|name| test.clone_into(name));
}

/// A line on standard error.
pub(crate) fn say(what: &str) {
    TEST.with_borrow(|test| eprintln!("  {test}: {what}"));
}

/// A number that was measured, for the README.
pub(crate) fn measured(what: &str) {
    say(&format!("measured: {what}"));
}
