//! Bugs that the test suites must find, switched on by name in test builds.
//!
//! Without the feature `planted-bugs` the question is answered `false` at compile time and nothing
//! of this is in the binary. The names are those of the reliability programme (Z1, Z5, …) or say
//! what is broken.

#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub(crate) const fn planted(_bug: &str) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
pub(crate) fn planted(bug: &str) -> bool {
    PLANTED.with(|planted| planted.borrow().as_deref() == Some(bug))
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::RefCell<Option<String>> = const { std::cell::RefCell::new(None) };
}

/// Switches one bug on for everything this thread does until it is called again; `None` for none.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<&str>) {
    PLANTED.with(|planted| *planted.borrow_mut() = bug.map(str::to_owned));
}
