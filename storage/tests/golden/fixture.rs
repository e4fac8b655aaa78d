//! Unpacks a fixture and reads what RocketMQ itself read in it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;
use staticfire_storage::disk::SimulatedDisk;
use tempfile::TempDir;

/// The directories that RocketMQ left behind by itself.
pub const WHOLE: [&str; 4] = ["clean", "killed", "retained", "crc32"];

/// One unpacked fixture; the directory is removed with it.
pub struct Fixture {
    pub expected: Vec<Value>,
    settings: String,
    unpacked: TempDir,
}

impl Fixture {
    pub fn open(name: &str) -> Self {
        let source = fixtures().join(name);
        let unpacked = tempfile::tempdir().unwrap();
        let archive = fs::File::open(source.join("store.tar.zst")).unwrap();
        let plain = ruzstd::decoding::StreamingDecoder::new(BufReader::new(archive)).unwrap();
        tar::Archive::new(plain).unpack(unpacked.path()).unwrap();
        let expected = fs::File::open(source.join("expected.jsonl.gz")).unwrap();
        let lines = BufReader::new(flate2::read::GzDecoder::new(expected)).lines();
        let expected = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        let settings = fs::read_to_string(source.join("settings.properties")).unwrap();
        Self { expected, settings, unpacked }
    }

    /// The damaged fixtures.
    pub fn torn_names() -> Vec<String> {
        let torn = fs::read_dir(fixtures().join("torn")).unwrap();
        let mut names: Vec<String> =
            torn.map(|entry| format!("torn/{}", entry.unwrap().file_name().to_str().unwrap())).collect();
        names.sort();
        names
    }

    /// The store directory.
    pub fn path(&self) -> PathBuf {
        self.unpacked.path().join("store")
    }

    /// The store directory on a simulated disk, every file durable.
    pub fn on_simulated_disk(&self) -> SimulatedDisk {
        let disk = SimulatedDisk::new(1);
        put_all(&disk, &self.path(), "");
        disk
    }

    /// A size that the directory must be opened with.
    pub fn setting(&self, name: &str) -> Option<u64> {
        let mut pairs = self.settings.lines().filter_map(|line| line.split_once('='));
        pairs.find(|(found, _)| *found == name).map(|(_, value)| value.parse().unwrap())
    }

    /// The lines of one kind.
    pub fn lines<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.expected.iter().filter(move |line| line["t"] == kind)
    }

    /// The bytes of the commit log files by start offset.
    pub fn segments(&self) -> BTreeMap<u64, Vec<u8>> {
        read_files(&self.path().join("commitlog"))
    }
}

fn put_all(disk: &SimulatedDisk, from: &Path, folder: &str) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let to = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        if path.is_dir() {
            put_all(disk, &path, &to);
        } else {
            disk.put(&to, &fs::read(&path).unwrap()).unwrap();
        }
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn read_files(directory: &Path) -> BTreeMap<u64, Vec<u8>> {
    let Ok(entries) = fs::read_dir(directory) else { return BTreeMap::new() };
    let file = |path: PathBuf| {
        let mut bytes = Vec::new();
        fs::File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
        (path.file_name().unwrap().to_str().unwrap().parse().unwrap(), bytes)
    };
    entries.map(|entry| file(entry.unwrap().path())).collect()
}
