//! What the writer does to the disk beside appending: directories that last, new segments, and making durable what was found
//! when the log was opened.

use crate::disk::{Disk, DiskError, DiskFile};
use crate::index::Index;
use crate::layout;
use crate::log::Options;
use crate::recover::{End, Found, OpenError, or_full};
use crate::segment::{HEADER, Header};
use crate::view::Segment;
use std::io;
use std::path::{Path, PathBuf};

/// The file of the segment that is written.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) path: PathBuf,
    pub(crate) file: Box<dyn DiskFile>,
}

/// Makes a directory that is still there after a power cut, with all that is durable in it.
pub(crate) fn make_dir(disk: &dyn Disk, directory: &Path) -> Result<(), DiskError> {
    disk.make_dir(directory).map_err(DiskError::at("make the directory", directory))?;
    let mut above = directory.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
    if let Some(parent) = above.next() {
        disk.sync_dir(parent).map_err(DiskError::at("sync the directory", parent))?;
    }
    // These are seldom new, and it may not be ours to read them.
    above.for_each(|above| drop(disk.sync_dir(above)));
    Ok(())
}

/// How long a new segment is.
pub(crate) fn first_allocation(options: &Options) -> u64 {
    (HEADER as u64 + options.reserve_bytes.max(options.allocate_bytes)).min(options.segment_bytes)
}

/// Makes a segment under another name first: what has the name of a segment has a header that is durable.
pub(crate) fn create_segment(
    disk: &dyn Disk,
    dir: &Path,
    header: Header,
    options: &Options,
) -> Result<Segment, DiskError> {
    let path = layout::segment(dir, header.first());
    let mut unfinished = path.clone().into_os_string();
    unfinished.push(UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    let made = disk.create(&unfinished).and_then(|file| {
        file.write_at(&header.encode(), 0)?;
        file.allocate(HEADER as u64, first_allocation(options))?;
        file.sync()
    });
    if let Err(error) = made {
        // It would be removed when the log is opened; until then it takes space that is perhaps needed.
        let _ = disk.remove(&unfinished);
        return Err(DiskError::at("make", &unfinished)(error));
    }
    disk.rename(&unfinished, &path).map_err(DiskError::at("put in place", &path))?;
    let wal = layout::wal(dir);
    // Once it has its name there is no way back: this is not reported as a full disk.
    disk.sync_dir(&wal).map_err(|error| DiskError::at("sync the directory", &wal)(io::Error::other(error)))?;
    let index = Index::new(header.first());
    Ok(Segment { header, path, index })
}

const UNFINISHED: &str = ".new";

/// Removes files that were being made when the process before ended.
pub(crate) fn remove_unfinished(disk: &dyn Disk, dir: &Path) -> Result<(), DiskError> {
    for directory in [dir, &layout::wal(dir), &layout::archive(dir)] {
        let names = disk.list(directory).map_err(DiskError::at("list", directory))?;
        for name in names.iter().filter(|name| name.ends_with(UNFINISHED)) {
            let path = directory.join(name);
            disk.remove(&path).map_err(DiskError::at("remove", &path))?;
        }
    }
    Ok(())
}

/// Makes durable what was found in the last segment. The process before may have met a sync that failed: then the kernel shows
/// bytes that the disk does not have and believes them written. So all bytes behind the last mark are written again.
pub(crate) fn make_durable(
    disk: &dyn Disk,
    dir: &Path,
    found: &Found,
    options: &Options,
) -> Result<(Held, u64), OpenError> {
    let Some(last) = found.view.segments.last() else {
        return Err(OpenError::Options("a log has a segment"));
    };
    let End { offset, mark, clean } = found.end;
    let path = last.path.clone();
    let file = disk.open_to_write(&path).map_err(DiskError::at("open", &path))?;
    let mut at = mark.offset.min(offset);
    let mut space = vec![0; 256 * 1024];
    while at < offset {
        let many = usize::try_from(offset - at).unwrap_or(usize::MAX).min(space.len());
        let some = space.get_mut(..many).unwrap_or_default();
        let read = file.read_at(some, at).map_err(DiskError::at("read", &path))?;
        if read < many {
            return Err(DiskError::at("read again", &path)(io::ErrorKind::UnexpectedEof.into()).into());
        }
        file.write_at(some, at).map_err(DiskError::at("write again", &path))?;
        at += read as u64;
    }
    let len = file.len().map_err(DiskError::at("measure", &path))?;
    if !clean {
        file.allocate(offset, len).map_err(DiskError::at("cut off the end of", &path))?;
    }
    let wanted = (offset + options.reserve_bytes).min(options.segment_bytes.max(offset));
    let reserved = or_full(file.allocate(offset, wanted).map_err(DiskError::at("reserve space in", &path)))?;
    file.sync().map_err(DiskError::at("sync", &path))?;
    for directory in [layout::wal(dir), dir.to_path_buf()] {
        disk.sync_dir(&directory).map_err(DiskError::at("sync the directory", &directory))?;
    }
    let allocated = if reserved { wanted.max(len) } else { offset };
    Ok((Held { path, file }, allocated))
}
