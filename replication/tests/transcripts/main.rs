//! Failures that others had, and ones that we fear, as texts: `*.txt` beside this file, each with its story in
//! prose first. `script.rs` says how they are written.

#[path = "../world/mod.rs"]
mod world;

mod script;
mod store;

/// proves: M36, I22, I25, I28, I35, I37, I38, I39, I40, I41, I44, I47, I48, and what each text names
#[test]
fn every_transcript_goes_as_it_is_written() {
    let wrong: Vec<String> = script::all().iter().filter_map(|script| script.run(None).err()).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
