//! How the crates hang together, and what each may use: read from cargo and from the sources.

#![allow(clippy::disallowed_methods, reason = "it reads the sources")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The crates people depend on, with the crates of ours that each may use.
const ARROWS: [(&str, &[&str]); 4] = [
    ("staticfire-storage", &[]),
    ("staticfire-transport", &[]),
    ("staticfire-replication", &["staticfire-storage", "staticfire-transport"]),
    ("staticfire", &["staticfire-storage", "staticfire-transport", "staticfire-replication"]),
];

/// The most crates that a user of the storage crate alone builds, itself not counted.
const STORAGE_CLOSURE_MAX: usize = 25;

/// Licences that a crate of the shipped graph may offer (S36).
const LICENCES: [&str; 7] =
    ["MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "Unicode-3.0"];

/// proves: C1, C4
#[test]
fn arrows_between_crates_never_turn_back() {
    let crates = direct_dependencies();
    for (name, allowed) in ARROWS {
        let used = crates.get(name).unwrap_or_else(|| panic!("{name} is a member of the workspace"));
        for dependency in used.iter().filter(|dependency| dependency.starts_with("staticfire")) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not use {dependency}");
        }
    }
}

/// proves: C1, C7
#[test]
fn the_storage_crate_builds_few_crates_and_no_runtime() {
    let closure = closure_of("staticfire-storage");
    assert!(closure.contains("bytes"), "the closure was read: {closure:?}");
    assert!(closure.len() <= STORAGE_CLOSURE_MAX, "{} crates: {closure:?}", closure.len());
    for unwanted in ["tokio", "serde", "serde_json", "prost", "async-std", "smol"] {
        assert!(!closure.contains(unwanted), "storage must not need {unwanted}");
    }
}

/// proves: C4
#[test]
fn neither_storage_nor_replication_can_name_a_type_of_tokio() {
    let closure = closure_of("staticfire-replication");
    assert!(closure.contains("staticfire-transport"), "the closure was read: {closure:?}");
    assert!(!closure.contains("tokio"), "replication must not build tokio: {closure:?}");
    for folder in ["storage", "replication"] {
        for file in sources(&[&format!("{folder}/src")]) {
            assert!(!code(&file).contains("tokio"), "{} names tokio", file.display());
        }
    }
}

/// proves: S33
#[test]
fn unsafe_code_lives_in_at_most_two_files_of_storage() {
    let mut rooms = BTreeSet::new();
    for file in shipped() {
        let code = code(&file);
        let mut words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
        if words.any(|word| word == "unsafe") {
            rooms.insert(file.strip_prefix(root()).expect("sources lie below the root").to_owned());
        }
    }
    assert!(rooms.iter().all(|file| file.starts_with("storage/src")), "unsafe code in {rooms:?}");
    assert!(rooms.len() <= 2, "unsafe code in {rooms:?}");
}

/// proves: M4, M16
#[test]
fn the_name_server_only_serves() {
    let files = sources(&["src/name_server"]);
    assert!(files.len() > 1, "the module was found");
    for file in files {
        for dialing in [".connect(", ".call("] {
            assert!(!code(&file).contains(dialing), "{} uses `{dialing}`", file.display());
        }
    }
}

/// proves: S5
#[test]
fn no_shipped_crate_starts_a_process() {
    for file in shipped() {
        assert!(!code(&file).contains("process::Command"), "{} starts processes", file.display());
    }
}

/// proves: C8
#[test]
fn a_file_is_a_noun_of_the_domain_and_not_long() {
    for entry in ["Cargo.toml", "storage", "replication", "transport", "benches", "tests"] {
        assert!(root().join(entry).exists(), "{entry} is part of the layout");
    }
    for file in sources(&["src", "storage", "transport", "replication", "benches", "tests"]) {
        let stem = file.file_stem().and_then(|stem| stem.to_str()).expect("names are text");
        let banned = ["common", "core", "util", "utils", "helper", "helpers", "base", "manager"];
        assert!(!banned.contains(&stem), "{}: name it after what it holds", file.display());
    }
    for file in shipped() {
        let lines = text(&file).lines().count();
        assert!(lines <= 800, "{}: {lines} lines", file.display());
    }
}

/// Whoever follows a message through the documents finds the files they name.
#[test]
fn documents_name_files_that_exist() {
    let mut named = 0;
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"] {
        let text = text(&root().join(document));
        let folders = ["src/", "storage/", "transport/", "replication/", "tests/", "benches/", ".ci/"];
        for name in text.split('`').skip(1).step_by(2) {
            let name = name.split(' ').next().unwrap_or(name);
            if folders.iter().any(|folder| name.starts_with(folder)) {
                assert!(root().join(name).exists(), "{document} names {name}");
                named += 1;
            }
        }
    }
    assert!(named > 50, "the names were found: {named}");
}

/// Each promise of the README has a test, by name.
#[test]
fn the_readme_names_tests_that_exist() {
    let folders = ["src", "tests", "storage/tests", "replication/tests"];
    let code: String = sources(&folders).iter().map(|file| text(file)).collect();
    let readme = text(&root().join("README.md"));
    let words = readme.split('`').skip(1).step_by(2).map(|word| word.rsplit("::").next().unwrap_or(word));
    let names: BTreeSet<_> =
        words.filter(|word| word.matches('_').count() > 3 && !word.contains(' ')).collect();
    for name in &names {
        assert!(code.contains(&format!("fn {name}(")), "README.md names {name}");
    }
    assert!(names.len() > 10, "they were found: {names:?}");
}

/// Whoever adds a header or a body adds it to its fuzz target; and every target is built.
#[test]
fn every_header_and_body_is_fuzzed() {
    let mut seen = 0;
    for family in ["headers", "bodies"] {
        let folder = format!("src/protocol/{}", family.replace("bodies", "body"));
        let target = text(&root().join(format!("fuzz/fuzz_targets/{family}.rs")));
        let named: BTreeSet<_> = target.split(|c: char| !c.is_alphanumeric()).collect();
        for file in sources(&[&folder]) {
            let code = text(&file);
            let declared = code.split("pub struct ").skip(1).filter(|rest| !rest.starts_with("QueueTable"));
            for name in declared.filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next()) {
                assert!(named.contains(name), "{name} of {} is in no fuzz target", file.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 80, "they were found: {seen}");
    let manifest = text(&root().join("fuzz/Cargo.toml"));
    for target in sources(&["fuzz/fuzz_targets"]) {
        let name = target.file_stem().and_then(|stem| stem.to_str()).expect("names are text");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml names {name}");
    }
}

/// Needs every package of the lock file on the machine: `cargo fetch --locked` first.
///
/// proves: S36
#[test]
#[ignore = "run by .ci/run after `cargo fetch --locked`"]
fn every_crate_of_the_graph_offers_a_licence_we_accept() {
    let metadata = cargo_json(&["metadata", "--locked", "--offline", "--format-version", "1"]);
    let packages = metadata["packages"].as_array().expect("cargo lists packages");
    assert!(packages.len() > 20, "the whole graph was read");
    for package in packages {
        let (name, offer) = (&package["name"], package["license"].as_str().unwrap_or("none"));
        assert!(accepted(offer), "{name} is licensed {offer}");
    }
}

/// True if the expression of licences can be met with those we accept. `AND` binds tighter than
/// `OR`; of an expression with parentheses, all must be acceptable.
fn accepted(expression: &str) -> bool {
    let offers = expression.replace('/', " OR ");
    if offers.contains('(') {
        let names = offers.split(['(', ')', ' ']).filter(|name| !["", "AND", "OR"].contains(name));
        return names.into_iter().all(|name| LICENCES.contains(&name));
    }
    offers.split(" OR ").any(|all| all.split(" AND ").all(|one| LICENCES.contains(&one.trim())))
}

#[test]
fn licence_expressions_are_judged() {
    assert!(accepted("MIT OR Apache-2.0") && accepted("MIT/Apache-2.0") && accepted("GPL-3.0 OR ISC"));
    assert!(accepted("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(!accepted("(MIT OR Apache-2.0) AND GPL-3.0"));
    assert!(!accepted("GPL-3.0") && !accepted("MIT AND GPL-3.0") && !accepted("none"));
}

/// What each member of the workspace names as normal dependencies, optional ones too.
fn direct_dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = cargo_json(&["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let members = metadata["packages"].as_array().expect("cargo lists packages").iter();
    members
        .map(|member| {
            let dependencies = member["dependencies"].as_array().expect("cargo lists dependencies").iter();
            let normal = dependencies.filter(|dependency| dependency["kind"].is_null());
            let names = normal.map(|dependency| word(&dependency["name"])).collect();
            (word(&member["name"]), names)
        })
        .collect()
}

fn word(value: &Value) -> String {
    value.as_str().expect("names are text").to_owned()
}

/// All crates that a user of `package` builds with default features on this system.
fn closure_of(package: &str) -> BTreeSet<String> {
    let tree = cargo(&["tree", "--offline", "-p", package, "-e", "normal", "--prefix", "none"]);
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| *name != package && !name.is_empty()).map(str::to_owned).collect()
}

fn cargo_json(arguments: &[&str]) -> Value {
    serde_json::from_str(&cargo(arguments)).expect("cargo prints JSON")
}

fn cargo(arguments: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().expect("cargo runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments:?}: {error}");
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below the folders.
fn sources(folders: &[&str]) -> Vec<PathBuf> {
    let mut pending: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut files = Vec::new();
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("target") {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

/// The Rust files of the crates, without their tests.
fn shipped() -> Vec<PathBuf> {
    let mut files = sources(&["src", "storage/src", "transport/src", "replication/src"]);
    let is_test = |file: &Path| {
        file.iter()
            .any(|part| part == "tests" || part.to_str().is_some_and(|part| part.ends_with("tests.rs")))
    };
    files.retain(|file| !is_test(file.strip_prefix(root()).unwrap_or(file)));
    files
}

fn text(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// The file without comments and without what stands between quotes on one line.
fn code(file: &Path) -> String {
    let mut code = String::new();
    for line in text(file).lines() {
        let line = line.split("//").next().unwrap_or("");
        code.extend(line.split('"').step_by(2));
        code.push('\n');
    }
    code
}
