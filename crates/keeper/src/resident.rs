//! What of the program stays in memory.

use std::fs;
use std::ops::Range;

/// Regions of the program and its libraries. The loader goes through megabytes of tables that nobody reads again, and
/// code that is rarely needed stays where it is once it ran. What was given back comes from the page cache when it is
/// needed again, page by page.
#[derive(Debug)]
pub(crate) struct Regions(Vec<Range<usize>>);

// === impl Regions ===

impl Regions {
    /// Those of this process, which are there from its start to its end.
    pub(crate) fn find() -> Self {
        Self(clean(&fs::read_to_string("/proc/self/smaps").unwrap_or_default()))
    }

    pub(crate) fn give_back(&self) {
        const DONT_NEED: i32 = 4;
        #[expect(unsafe_code, reason = "no safe interface gives pages back")]
        unsafe extern "C" {
            fn madvise(from: *mut u8, length: usize, advice: i32) -> i32;
        }
        for region in &self.0 {
            #[expect(unsafe_code, reason = "no safe interface gives pages back")]
            // SAFETY: the region is a file's, nobody may write to it and none of its pages was ever changed: what is read
            // from it next is what the file says, as before. Nothing takes a library away again. A failure changes nothing.
            unsafe {
                madvise(std::ptr::without_provenance_mut(region.start), region.len(), DONT_NEED);
            }
        }
    }
}

/// The regions that are a file's and stay as they are in the file: nobody may write there, and the kernel made no page of
/// its own for one. Tables that the loader has changed are closed for writing too, and must stay.
fn clean(smaps: &str) -> Vec<Range<usize>> {
    let (mut found, mut region) = (Vec::new(), None);
    for line in smaps.lines() {
        let mut fields = line.split_ascii_whitespace();
        match (fields.next(), fields.next()) {
            (Some("Anonymous:"), Some("0")) => found.extend(region.take()),
            (Some(range), Some(rights)) if !range.ends_with(':') => {
                let file = fields.nth(3).is_some_and(|path| path.starts_with('/'));
                region = bounds(range).filter(|_| file && matches!(rights, "r--p" | "r-xp"));
            }
            _ => {}
        }
    }
    found
}

fn bounds(range: &str) -> Option<Range<usize>> {
    let (from, to) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(number(from)?..number(to)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_in_the_file_is_given_back() {
        let region = |from: &str, rights: &str, path: &str, anonymous: u32| {
            format!(
                "{from}000-{from}fff {rights} 00001000 fe:00 247264      {path}\nSize: 4 kB\nAnonymous:      {anonymous} kB\n\
                 AnonHugePages:         0 kB\nVmFlags: rd mr\n"
            )
        };
        let smaps = [
            region("1", "r--p", "/usr/bin/staithe", 0),
            region("2", "r-xp", "/usr/bin/staithe (deleted)", 0),
            region("3", "r--p", "/usr/bin/staithe", 640), // relocated, then closed
            region("4", "rw-p", "/usr/bin/staithe", 0),
            region("5", "r--s", "/var/lib/x", 0),
            region("6", "r--p", "", 0),
            region("7", "r-xp", "[vdso]", 0),
        ];
        assert_eq!(clean(&smaps.concat()), [0x1000..0x1fff, 0x2000..0x2fff]);
        assert_eq!(clean("Anonymous: 0 kB\n-- r--p 0 0 0 /x\nAnonymous: 0 kB\n"), []);
    }

    /// This very test goes on afterwards.
    #[test]
    fn what_is_needed_comes_back() {
        let own = fs::read_to_string("/proc/self/smaps").unwrap();
        assert!(clean(&own).len() > 3, "{own}");
        Regions::find().give_back();
        assert!(fs::read_to_string("/proc/self/smaps").unwrap().len() > 1000);
    }
}
