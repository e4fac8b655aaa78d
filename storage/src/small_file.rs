//! Small files that are replaced as a whole: configuration, exports, anything that must be either
//! as it was or as it is meant to be.
//!
//! ```text
//!   x.tmp  create ─ write ─ sync                (a leftover of an earlier attempt is removed first)
//!   x                              rename ─ sync of the directory
//!          old content is there ───┤├─── the new content is there, whatever fails
//! ```
//! The file is synced before it takes the name, so the name never leads to half a file; the
//! directory is synced before the replacement is reported, so it is never taken back.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Directory, OnSynced, SegmentFile, parent, write_all_at};

/// The longest content, in bytes: well above what a broker with 100,000 topics keeps.
pub const LEN_MAX: usize = 64 << 20;

/// Replaces the content of the file `path`, durably; creates it when missing. Its directory exists.
///
/// When this fails, or the machine does, the file has the old content or the new one. Two
/// replacements of one file must not run at the same time.
///
/// # Errors
/// `FileTooLarge` above [`LEN_MAX`], or the disk's error.
pub fn replace(directory: &dyn Directory, path: &str, bytes: &[u8]) -> io::Result<()> {
    write_temporary(directory, path, bytes)?.sync()?;
    directory.rename(&temporary(path), path)?;
    directory.sync(parent(path))
}

/// Starts to do what [`replace`] does; `done` gets the result later, perhaps before this returns,
/// perhaps never. For callers that have other things to do meanwhile.
///
/// After an error it may be tried again: everything is written anew then, and a sync that failed
/// is not asked a second time.
pub fn start_replace(directory: &Arc<dyn Directory>, path: &str, bytes: &[u8], done: OnSynced) {
    let file = match write_temporary(&**directory, path, bytes) {
        Ok(file) => file,
        Err(error) => return done(Err(error)),
    };
    let (directory, path) = (Arc::clone(directory), path.to_owned());
    file.start_sync(Box::new(move |synced| {
        match synced.and_then(|()| directory.rename(&temporary(&path), &path)) {
            Ok(()) => directory.start_sync(parent(&path), done),
            Err(error) => done(Err(error)),
        }
    }));
}

fn temporary(path: &str) -> String {
    format!("{path}.tmp")
}

fn write_temporary(directory: &dyn Directory, path: &str, bytes: &[u8]) -> io::Result<Arc<dyn SegmentFile>> {
    check_len(bytes.len() as u64)?;
    let temporary = temporary(path);
    match directory.remove(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = directory.create(&temporary, bytes.len() as u64)?;
    write_all_at(&*file, 0, bytes)?;
    Ok(file)
}

/// The content of the file `path`; `None` when there is none.
///
/// # Errors
/// `FileTooLarge` above [`LEN_MAX`], or the disk's error.
pub fn read(directory: &dyn Directory, path: &str) -> io::Result<Option<Bytes>> {
    let file = match directory.open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    check_len(file.len())?;
    let mut bytes = vec![0; file.len() as usize];
    file.read_into(0, &mut bytes)?;
    Ok(Some(bytes.into()))
}

fn check_len(len: u64) -> io::Result<()> {
    if len <= LEN_MAX as u64 {
        return Ok(());
    }
    let message = format!("{len} bytes are too many for a small file; {LEN_MAX} are allowed");
    Err(io::Error::new(io::ErrorKind::FileTooLarge, message))
}

#[cfg(test)]
mod tests;
