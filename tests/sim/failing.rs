//! What a case leaves that fails.

#![allow(clippy::disallowed_methods, reason = "it looks at the files that were left")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use staticfire::sim::{Cluster, Node, cases};

const TEST: &str = "failing::a_case_that_fails_can_be_run_again_and_looked_at";
/// Set for the process that is to fail.
const FAIL: &str = "STATICFIRE_FAIL";

/// This test, in a process of its own that fails: what it says.
fn fail(pages: &Path, seed: Option<u64>) -> String {
    let mut test = Command::new(env::current_exe().expect("this test"));
    test.args(["--exact", TEST, "--nocapture"]).env(FAIL, "").env("STATICFIRE_TIMELINES", pages);
    test.envs(seed.map(|seed| ("STATICFIRE_SEED", seed.to_string())));
    let output = test.output().expect("this test runs once more");
    assert!(!output.status.success(), "it does not fail");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// One line runs the case again, and a page shows it; the same page in another process.
/// proves: I71
#[test]
fn a_case_that_fails_can_be_run_again_and_looked_at() {
    if env::var_os(FAIL).is_some() {
        return cases(1, |seed| {
            let mut cluster = Cluster::seeded(seed).start();
            cluster.create_topic("orders", 1);
            cluster.partition(Node::master(0), Node::NameServer(0));
            cluster.power_cut(Node::master(0));
            cluster.run_for(Duration::from_secs(1));
            panic!("on purpose");
        });
    }
    let pages = tempfile::tempdir().expect("a folder");
    let page = |seed: u64| {
        let name = format!("{}-seed-{seed}.html", TEST.replace([':', '_'], "-"));
        fs::read_to_string(pages.path().join(name))
    };
    let said = fail(pages.path(), None);
    let again = format!("STATICFIRE_SEED=0 cargo test -p staticfire --tests -- --exact {TEST}\n");
    assert!(said.contains(&again), "{said}");
    let shown = page(0).expect("a page");
    for part in ["<th>n0<th>b0.0<th>c250", "REGISTER_BROKER", "PowerCut b0.0", "seed 0", "answer 0 #"] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
    fs::remove_dir_all(pages.path()).expect("the folder was there");
    fail(pages.path(), Some(0));
    assert_eq!(page(0).expect("a page"), shown);
    fail(pages.path(), Some(1));
    assert_ne!(page(1).expect("a page"), shown);
}
