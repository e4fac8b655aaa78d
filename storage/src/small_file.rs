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

use bytes::Bytes;

use crate::disk::{Directory, parent, write_all_at};

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
    check_len(bytes.len() as u64)?;
    let temporary = format!("{path}.tmp");
    match directory.remove(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = directory.create(&temporary, bytes.len() as u64)?;
    write_all_at(&*file, 0, bytes)?;
    file.sync()?;
    directory.rename(&temporary, path)?;
    directory.sync(parent(path))
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
