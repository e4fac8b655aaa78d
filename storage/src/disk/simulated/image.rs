//! The file system of a simulated disk: inodes, names, and what of both a power cut may take.
//!
//! Content belongs to inodes, names belong to directories; both have a cached and a durable state.
//! A change of names (create, rename, link, remove) is a set of effects `(directory, name) -> inode
//! or nothing` that a power cut keeps or loses as a whole, independently of other changes, until
//! one of its directories is synced: then the effects there are durable, the rest still is not.
//!
//! Cloning an image copies pointers, so a crash state costs little more than what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::content::{Content, Kept, SECTOR};
use super::faults::Reread;
use super::random::mix;

pub(super) type Inode = u64;
pub(super) const ROOT: Inode = 1;

#[derive(Clone, Debug)]
pub(super) struct Image {
    nodes: BTreeMap<Inode, Arc<Node>>,
    /// Changes of names that are not durable yet, oldest first.
    pub(super) changes: Vec<Change>,
    next_inode: Inode,
    /// Counts writes and changes: what a sync covers is what has a number up to the count at its start.
    pub(super) written: u64,
    /// Bytes of a sector, of every file.
    pub(super) sector_bytes: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    File(Content),
    Directory(Names),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) cache: BTreeMap<Arc<str>, Inode>,
    durable: BTreeMap<Arc<str>, Inode>,
}

/// A change of names that a power cut keeps or loses as a whole.
#[derive(Clone, Debug)]
pub(super) struct Change(Vec<Effect>);

#[derive(Clone, Debug)]
struct Effect {
    /// Number of the change; `u64::MAX` after a failed sync, when no later one will cover it.
    written: u64,
    directory: Inode,
    name: Arc<str>,
    to: Option<Inode>,
}

impl Image {
    /// An empty root.
    pub(super) fn empty() -> Self {
        let root = Arc::new(Node::Directory(Names::default()));
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            changes: Vec::new(),
            next_inode: ROOT + 1,
            written: 0,
            sector_bytes: SECTOR,
        }
    }

    /// The inode at the end of `path`.
    pub(super) fn find(&self, path: &[&str]) -> io::Result<Inode> {
        path.iter()
            .try_fold(ROOT, |at, name| self.entry(at, name)?.ok_or_else(|| io::ErrorKind::NotFound.into()))
    }

    /// The directory that holds the entry `path`, the entry's name there, and what it names.
    pub(super) fn find_entry<'a>(&self, path: &[&'a str]) -> io::Result<(Inode, &'a str, Option<Inode>)> {
        let Some((name, parents)) = path.split_last() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the root itself has no entry"));
        };
        let parent = self.find(parents)?;
        Ok((parent, name, self.entry(parent, name)?))
    }

    fn entry(&self, directory: Inode, name: &str) -> io::Result<Option<Inode>> {
        Ok(self.names(directory).ok_or(io::ErrorKind::NotADirectory)?.cache.get(name).copied())
    }

    pub(super) fn names(&self, inode: Inode) -> Option<&Names> {
        match self.nodes.get(&inode).map(|node| &**node) {
            Some(Node::Directory(names)) => Some(names),
            _ => None,
        }
    }

    pub(super) fn content(&self, inode: Inode) -> Option<&Content> {
        match self.nodes.get(&inode).map(|node| &**node) {
            Some(Node::File(content)) => Some(content),
            _ => None,
        }
    }

    pub(super) fn content_mut(&mut self, inode: Inode) -> Option<&mut Content> {
        match self.nodes.get_mut(&inode).map(Arc::make_mut) {
            Some(Node::File(content)) => Some(content),
            _ => None,
        }
    }

    fn names_mut(&mut self, inode: Inode) -> Option<&mut Names> {
        match self.nodes.get_mut(&inode).map(Arc::make_mut) {
            Some(Node::Directory(names)) => Some(names),
            _ => None,
        }
    }

    /// Every file and its content.
    pub(super) fn files(&self) -> impl Iterator<Item = (Inode, &Content)> {
        self.nodes.iter().filter_map(|(inode, node)| match &**node {
            Node::File(content) => Some((*inode, content)),
            Node::Directory(_) => None,
        })
    }

    pub(super) fn add_file(&mut self, content: Content) -> Inode {
        self.add(Node::File(content))
    }

    pub(super) fn add_directory(&mut self) -> Inode {
        self.add(Node::Directory(Names::default()))
    }

    fn add(&mut self, node: Node) -> Inode {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.nodes.insert(inode, Arc::new(node));
        inode
    }

    /// Takes the number of the next write or change.
    pub(super) fn next_written(&mut self) -> u64 {
        self.written += 1;
        self.written
    }

    /// Changes names in the cache; a sync of their directories makes it durable.
    pub(super) fn change(&mut self, effects: &[(Inode, &str, Option<Inode>)]) {
        let written = self.next_written();
        let mut change = Vec::with_capacity(effects.len());
        for (directory, name, to) in effects {
            let effect = Effect { written, directory: *directory, name: Arc::from(*name), to: *to };
            if let Some(names) = self.names_mut(*directory) {
                set(&mut names.cache, &effect);
            }
            change.push(effect);
        }
        self.changes.push(Change(change));
    }

    /// Makes the changes in `directory` durable up to number `upto`.
    pub(super) fn sync_directory(&mut self, directory: Inode, upto: u64) {
        let mut changes = std::mem::take(&mut self.changes);
        let covered = |effect: &Effect| effect.directory == directory && effect.written <= upto;
        let mut done: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for (index, effect) in flat(&changes).filter(|(_, effect)| covered(effect)) {
            if let Some(names) = self.names_mut(directory) {
                set(&mut names.durable, effect);
            }
            done.insert(Arc::clone(&effect.name), index);
        }
        for (index, change) in changes.iter_mut().enumerate() {
            // What an earlier failed sync left undecided is decided by a later change of the same name.
            let overtaken =
                |e: &Effect| e.directory == directory && done.get(&e.name).is_some_and(|i| index < *i);
            change.0.retain(|effect| !covered(effect) && !overtaken(effect));
        }
        changes.retain(|change| !change.0.is_empty());
        self.changes = changes;
    }

    /// Leaves the changes in `directory` up to number `upto` undecided for ever.
    pub(super) fn fail_sync_directory(&mut self, directory: Inode, upto: u64) {
        for effect in self.changes.iter_mut().flat_map(|change| &mut change.0) {
            if effect.directory == directory && effect.written <= upto {
                effect.written = u64::MAX;
            }
        }
    }

    /// Makes one change durable unasked, and the earlier ones of the same names.
    pub(super) fn write_back_change(&mut self, index: usize) {
        for effect in self.changes[index].0.clone() {
            let upto = effect.written;
            let overtaken =
                |e: &Effect| e.directory == effect.directory && e.name == effect.name && e.written <= upto;
            for change in &mut self.changes {
                change.0.retain(|e| !overtaken(e));
            }
            if let Some(names) = self.names_mut(effect.directory) {
                set(&mut names.durable, &effect);
            }
        }
        self.changes.retain(|change| !change.0.is_empty());
    }

    pub(super) fn fail_sync_file(&mut self, inode: Inode, upto: u64, reread: Reread) {
        if let Some(content) = self.content_mut(inode) {
            content.fail_sync(upto, reread);
        }
    }

    /// Cuts the power. `choose` decides each open question.
    pub(super) fn cut_power(&mut self, mut choose: impl FnMut(Question) -> Kept) {
        for (index, change) in std::mem::take(&mut self.changes).into_iter().enumerate() {
            if choose(Question::Change(index)) == Kept::Version(1) {
                for effect in change.0 {
                    if let Some(names) = self.names_mut(effect.directory) {
                        set(&mut names.durable, &effect);
                    }
                }
            }
        }
        for (inode, node) in &mut self.nodes {
            match &**node {
                Node::File(content) if content.is_settled() => continue,
                Node::Directory(names) if names.cache == names.durable => continue,
                _ => {}
            }
            match Arc::make_mut(node) {
                Node::File(content) => {
                    let keep_len =
                        content.len_pending.is_some() && choose(Question::Length(*inode)) == Kept::Version(1);
                    content.cut_power(keep_len, |sector| choose(Question::Sector(*inode, sector)));
                }
                Node::Directory(names) => names.cache = names.durable.clone(),
            }
        }
        self.forget_unnamed(&BTreeSet::new());
    }

    /// The questions that a power cut would ask now, each with the number of its answers.
    pub(super) fn questions(&self) -> Vec<(Question, usize)> {
        let mut questions: Vec<_> =
            (0..self.changes.len()).map(|index| (Question::Change(index), 2)).collect();
        for (inode, content) in self.files() {
            if content.len_pending.is_some() {
                questions.push((Question::Length(inode), 2));
            }
            let sectors = content.pending.iter();
            questions.extend(sectors.map(|(sector, v)| (Question::Sector(inode, *sector), v.len() + 1)));
        }
        questions
    }

    /// True when the medium holds what the cache shows.
    pub(super) fn is_settled(&self) -> bool {
        self.changes.is_empty()
            && self.nodes.values().all(|node| match &**node {
                Node::File(content) => content.is_durable(),
                Node::Directory(names) => names.cache == names.durable,
            })
    }

    /// Drops inodes that no name, pending change or handle leads to.
    pub(super) fn forget_unnamed(&mut self, open: &BTreeSet<Inode>) {
        let mut reached = open.clone();
        let pending = self.changes.iter().flat_map(|change| &change.0).filter_map(|effect| effect.to);
        let mut next: Vec<Inode> = pending.chain([ROOT]).collect();
        while let Some(inode) = next.pop() {
            if reached.insert(inode)
                && let Some(names) = self.names(inode)
            {
                next.extend(names.cache.values().chain(names.durable.values()));
            }
        }
        self.nodes.retain(|inode, _| reached.contains(inode));
    }

    /// The inodes that names in the cache lead to: what counts as used space.
    pub(super) fn named(&self) -> BTreeSet<Inode> {
        let (mut reached, mut next) = (BTreeSet::new(), vec![ROOT]);
        while let Some(inode) = next.pop() {
            if reached.insert(inode)
                && let Some(names) = self.names(inode)
            {
                next.extend(names.cache.values());
            }
        }
        reached
    }

    /// The paths of all files, sorted.
    pub(super) fn paths(&self) -> Vec<(String, Inode)> {
        let mut found = Vec::new();
        self.collect_paths(ROOT, "", &mut found);
        found
    }

    fn collect_paths(&self, directory: Inode, prefix: &str, found: &mut Vec<(String, Inode)>) {
        for (name, inode) in self.names(directory).into_iter().flat_map(|names| &names.cache) {
            let path = format!("{prefix}{name}");
            if self.content(*inode).is_some() {
                found.push((path, *inode));
            } else {
                self.collect_paths(*inode, &format!("{path}/"), found);
            }
        }
    }

    /// A number that differs, as far as 64 bits can, when names, lengths or bytes differ, be they durable or
    /// in the cache.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut sum = 0;
        let mut add = |value: u64| sum = mix(sum ^ value).wrapping_add(1);
        for (path, inode) in self.paths() {
            path.bytes().for_each(|byte| add(byte.into()));
            let Some(content) = self.content(inode) else { continue };
            add(content.len);
            for (number, bytes) in content.durable_sectors() {
                add(number);
                add(crc32fast::hash(bytes).into());
            }
            for (number, bytes) in content.cached_sectors() {
                add(!number);
                add(crc32fast::hash(bytes).into());
            }
        }
        sum
    }
}

/// Something that a power cut decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Is the pending change of names with this index kept?
    Change(usize),
    /// Is the pending length of the file kept?
    Length(Inode),
    /// Which version of the sector is kept?
    Sector(Inode, u64),
}

fn flat(changes: &[Change]) -> impl Iterator<Item = (usize, &Effect)> {
    changes.iter().enumerate().flat_map(|(index, change)| change.0.iter().map(move |effect| (index, effect)))
}

fn set(names: &mut BTreeMap<Arc<str>, Inode>, effect: &Effect) {
    match effect.to {
        Some(inode) => names.insert(Arc::clone(&effect.name), inode),
        None => names.remove(&effect.name),
    };
}
