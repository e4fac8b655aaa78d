//! The transcripts prove themselves: with a bug that breaks the rule they do not go as they are written.
#![cfg(feature = "planted-bugs")]

#[path = "transcripts/script.rs"]
mod script;
#[path = "transcripts/store.rs"]
mod store;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// proves: the transcripts find what they say they find
#[test]
fn transcripts_fail_with_the_bugs_that_they_name() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut blind = Vec::new();
    for script in script::all() {
        for bug in script.fails_with() {
            let bug: &'static str = bug.leak();
            // A broken assertion counts.
            let went = catch_unwind(AssertUnwindSafe(|| script.run(Some(bug))));
            if matches!(went, Ok(Ok(()))) {
                blind.push(format!("{} with {bug}", script.name()));
            }
        }
    }
    drop(std::panic::take_hook());
    assert!(blind.is_empty(), "they go as written: {blind:?}");
}
