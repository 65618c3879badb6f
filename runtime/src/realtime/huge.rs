//! What the process holds, moved to huge pages and kept at hand: its heap and the text it runs.

use core::fmt;
use core::ops::Range;
use core::time::Duration;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// How often each huge page is looked at. A host's measure of idleness is tens of milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What lies on huge pages, of what could.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HugePages {
    /// Bytes of private memory on huge pages.
    pub heap_bytes: u64,
    /// Bytes of private memory, those that fill no huge page included.
    pub of_heap_bytes: u64,
    /// Bytes of program text on huge pages.
    pub text_bytes: u64,
    /// Bytes of program text, those that fill no huge page included.
    pub of_text_bytes: u64,
    /// Huge pages that are looked at; 0 where the kernel does not let a process read itself.
    pub kept_pages: usize,
}

impl fmt::Display for HugePages {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            out,
            "{:.0} of {:.0} MiB of memory and {:.0} of {:.0} MiB of text on huge pages, {} pages kept at hand",
            mib(self.heap_bytes),
            mib(self.of_heap_bytes),
            mib(self.text_bytes),
            mib(self.of_text_bytes),
            self.kept_pages
        )
    }
}

/// From here on the heap is one, begins on a huge page and keeps what is freed: what it will hold can be moved as a whole.
///
/// To be called before anything that an inference uses is allocated.
pub fn gather_heap() {
    machine::gather_heap();
}

/// Moves what the process holds to huge pages.
///
/// The first touch of an ordinary page after a second of rest may cost a hundred times that of a huge one where a host
/// takes pages away from a virtual machine that leaves them alone, and a processor with few entries for addresses forgets
/// them between two inferences anywhere. A file's pages are huge only in kernels that were built for it, so a program's
/// text and constants are copied: debuggers and profilers no longer find its file in `/proc/self/maps`.
///
/// # Errors
/// The kernel's reason where nothing could be moved: none but Linux since 6.1 can be asked.
///
/// # Real-time
/// Takes tenths of a second, in which other threads wait where they touch what is being moved: before activation only.
pub fn use_huge_pages() -> Result<PageKeeper, String> {
    let (mut pages, mut looked_at) = machine::use_huge_pages()?;
    machine::look_at(&mut looked_at);
    pages.kept_pages = looked_at.len();
    let running = Arc::new(AtomicBool::new(true));
    let goes_on = Arc::clone(&running);
    let thread = std::thread::Builder::new()
        .name("pages".to_owned())
        .spawn(move || {
            while goes_on.load(Ordering::Acquire) {
                machine::look_at(&mut looked_at);
                std::thread::sleep(LOOK_EVERY);
            }
        })
        .map_err(|error| error.to_string())?;
    Ok(PageKeeper { pages, running, thread: Some(thread) })
}

/// Looks at every huge page some fifty times a second, on a thread of ordinary scheduling, until it is dropped: a page that
/// only an inference touches would be taken away between two of them.
#[derive(Debug)]
pub struct PageKeeper {
    pages: HugePages,
    running: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PageKeeper {
    /// What was moved.
    pub fn pages(&self) -> HugePages {
        self.pages
    }
}

impl Drop for PageKeeper {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it cannot panic, and there is nothing left to do if it did
        }
    }
}

/// What a touch of this program's pages takes after they were left alone for a second, on average; `None` where they cannot be
/// told. Some hundreds of nanoseconds on a machine of its own, and microseconds where a host takes pages away.
pub fn touch_after_rest() -> Option<Duration> {
    const STEP: usize = 64 * 1024;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let images = regions(&maps).into_iter().filter(|region| matches!(region, Region::Image(_)));
    let places: Vec<usize> = images.flat_map(|region| region.range().step_by(STEP)).collect();
    let touch = || {
        let begin = std::time::Instant::now();
        for place in &places {
            // SAFETY: text and constants of the running program, which stay mapped and are readable.
            unsafe { core::ptr::read_volatile(*place as *const u8) };
        }
        begin.elapsed()
    };
    touch();
    std::thread::sleep(Duration::from_secs(1));
    touch().checked_div(u32::try_from(places.len()).ok()?)
}

/// Neighbouring mappings that are moved as one.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Region {
    /// Private memory.
    Heap(Range<usize>),
    /// A program or library: each part that is only read, and whether it is executed.
    Image(Vec<(Range<usize>, bool)>),
}

impl Region {
    fn range(&self) -> Range<usize> {
        match self {
            Self::Heap(range) => range.clone(),
            Self::Image(parts) => {
                parts.first().map_or(0, |part| part.0.start)..parts.last().map_or(0, |part| part.0.end)
            }
        }
    }
}

/// What `/proc/self/maps` has of heap and of programs. A file that is only read is not a program.
fn regions(maps: &str) -> Vec<Region> {
    let mut regions = Vec::new();
    let mut image = (Vec::new(), "");
    for line in maps.lines() {
        let Some((range, rights, name)) = mapping(line) else { continue };
        let goes_on =
            image.1 == name && image.0.last().is_some_and(|(last, _): &(Range<usize>, _)| last.end == range.start);
        let is_read = name.starts_with('/') && matches!(rights, "r--p" | "r-xp");
        if !(goes_on && is_read) {
            regions.push(Region::Image(core::mem::take(&mut image.0)));
        }
        match (rights, name) {
            ("rw-p", name) if matches!(name, "" | "[heap]") || name.starts_with("[anon") => {
                regions.push(Region::Heap(range));
            }
            _ if is_read => {
                image.0.push((range, rights == "r-xp"));
                image.1 = name;
            }
            _ => {}
        }
    }
    regions.push(Region::Image(image.0));
    regions.retain(|region| match region {
        Region::Heap(_) => true,
        Region::Image(parts) => parts.iter().any(|part| part.1),
    });
    regions
}

/// Where a mapping lies, its rights and its name.
fn mapping(line: &str) -> Option<(Range<usize>, &str, &str)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    Some((range, words.next()?, words.nth(3).unwrap_or_default()))
}

#[cfg(target_os = "linux")]
mod machine {
    use super::{HugePages, Region, regions};
    use crate::realtime::pages::{HUGE_PAGE, keep_memory};
    use core::ops::Range;
    use core::ptr::null_mut;
    use std::io::Error;

    pub fn use_huge_pages() -> Result<(HugePages, Vec<usize>), String> {
        make_room();
        let maps = std::fs::read_to_string("/proc/self/maps").map_err(|error| format!("/proc/self/maps: {error}"))?;
        let mut got = HugePages::default();
        let mut looked_at = Vec::new();
        let mut refused = None;
        for region in regions(&maps) {
            let range = region.range();
            let whole = range.start.next_multiple_of(HUGE_PAGE)..range.end / HUGE_PAGE * HUGE_PAGE;
            let (result, moved, of) = match &region {
                Region::Heap(_) => (collapse(&whole), &mut got.heap_bytes, &mut got.of_heap_bytes),
                Region::Image(parts) => (replace(&range, parts), &mut got.text_bytes, &mut got.of_text_bytes),
            };
            *of += range.len() as u64;
            match (result, region) {
                (Ok(0), _) => {}
                (Ok(bytes), Region::Heap(_)) => {
                    *moved += bytes as u64;
                    looked_at.extend(whole.step_by(HUGE_PAGE));
                }
                (Ok(bytes), Region::Image(_)) => {
                    *moved += bytes as u64;
                    looked_at.push(range.start);
                    looked_at.extend((range.start.next_multiple_of(HUGE_PAGE)..range.end).step_by(HUGE_PAGE));
                }
                (Err(reason), _) => refused = refused.or(Some(reason)),
            }
        }
        match refused {
            Some(reason) if looked_at.is_empty() => Err(reason),
            _ => Ok((got, looked_at)),
        }
    }

    /// Reads a byte of each page, through the kernel: one that is no longer mapped is forgotten.
    pub fn look_at(pages: &mut Vec<usize>) {
        const AT_ONCE: usize = 64;
        let mut bytes = [0u8; AT_ONCE];
        let mut done = 0;
        while done < pages.len() {
            let count = (pages.len() - done).min(AT_ONCE);
            let mut there = [libc::iovec { iov_base: null_mut(), iov_len: 1 }; AT_ONCE];
            for (there, page) in there.iter_mut().zip(&pages[done..]) {
                there.iov_base = *page as *mut libc::c_void;
            }
            let here = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: count };
            // SAFETY: writes into `bytes`, which has room for `count`; what cannot be read is not read.
            let read =
                unsafe { libc::process_vm_readv(libc::getpid(), &here, 1, there.as_ptr(), count as libc::c_ulong, 0) };
            let read = usize::try_from(read).unwrap_or(0);
            done += read;
            if read < count {
                pages.remove(done);
            }
        }
    }

    /// Huge page by huge page, so that one that is empty, or that the kernel has no room for, leaves the others. An empty
    /// one is huge when it is first touched.
    fn collapse(range: &Range<usize>) -> Result<usize, String> {
        let mut moved = 0;
        let mut refused = None;
        for start in range.clone().step_by(HUGE_PAGE) {
            // SAFETY: advice about whole pages of this process; their contents stay as they are.
            let taken = unsafe {
                libc::madvise(start as *mut _, HUGE_PAGE, libc::MADV_HUGEPAGE) == 0
                    && libc::madvise(start as *mut _, HUGE_PAGE, libc::MADV_COLLAPSE) == 0
            };
            if taken {
                moved += HUGE_PAGE;
            } else {
                refused = refused.or_else(|| Some(Error::last_os_error().to_string()));
            }
        }
        refused.filter(|_| moved == 0).map_or(Ok(moved), Err)
    }

    /// Puts a copy that lies on huge pages in the place of what is only read. Where a huge page reaches beyond the range, what
    /// is left of it goes back to the kernel: the rest stays together.
    fn replace(range: &Range<usize>, parts: &[(Range<usize>, bool)]) -> Result<usize, String> {
        let first = range.start % HUGE_PAGE;
        let whole = (first + range.len()).next_multiple_of(HUGE_PAGE);
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping where the kernel finds room, checked before it is used.
        let room = unsafe { libc::mmap(null_mut(), whole + HUGE_PAGE, rights, flags, -1, 0) };
        if room == libc::MAP_FAILED {
            return Err(Error::last_os_error().to_string());
        }
        let ends = room.addr() + whole + HUGE_PAGE;
        let pages = room.addr().next_multiple_of(HUGE_PAGE);
        let copy = pages + first;
        let result = copy_and_move(range, &(pages..pages + whole), copy);
        let left = match result {
            Ok(_) => [room.addr()..copy, copy + range.len()..ends],
            Err(_) => [room.addr()..ends, ends..ends],
        };
        for left in left.into_iter().filter(|left| !left.is_empty()) {
            // SAFETY: what is left of the mapping made above, which nothing refers to.
            unsafe { libc::munmap(left.start as *mut _, left.len()) };
        }
        let moved = result?;
        for (part, _) in parts.iter().filter(|part| !part.1) {
            // SAFETY: constants of the program, which were no more than readable before.
            unsafe { libc::mprotect(part.start as *mut _, part.len(), libc::PROT_READ) };
        }
        Ok(moved.min(range.len()))
    }

    /// What is moved may hold the instructions that move it: it takes their place in one step, and executable.
    fn copy_and_move(from: &Range<usize>, pages: &Range<usize>, copy: usize) -> Result<usize, String> {
        let size = from.len();
        // SAFETY: `copy..copy + size` lies in a mapping of the caller's that nothing refers to; the range is mapped readable
        // and nobody writes to it.
        unsafe { core::ptr::copy_nonoverlapping(from.start as *const u8, copy as *mut u8, size) };
        let moved = collapse(pages)?;
        // SAFETY: as above; the move puts the same bytes in the place of those every thread reads, in one step.
        unsafe {
            if libc::mprotect(pages.start as *mut _, pages.len(), libc::PROT_READ | libc::PROT_EXEC) != 0 {
                return Err(Error::last_os_error().to_string());
            }
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            if libc::mremap(copy as *mut _, size, size, flags, from.start as *mut libc::c_void) == libc::MAP_FAILED {
                return Err(Error::last_os_error().to_string());
            }
        }
        Ok(moved)
    }

    #[cfg(target_env = "gnu")]
    pub fn gather_heap() {
        keep_memory();
        // SAFETY: takes numbers only; the block, which is never given back, ends where the next huge page begins.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
            let top = libc::sbrk(0).addr();
            if top != usize::MAX {
                libc::malloc(top.next_multiple_of(HUGE_PAGE) - top);
            }
        }
    }

    /// Other allocators place what they place.
    #[cfg(not(target_env = "gnu"))]
    pub fn gather_heap() {
        keep_memory();
    }

    /// The heap has room for what is to come: an inference's own memory lies on what is moved.
    fn make_room() {
        /// Below what the kernel is asked for block by block.
        const ROOM: usize = 24 << 20;
        // SAFETY: the block is checked, written within its size and given back.
        unsafe {
            let room = libc::malloc(ROOM);
            if !room.is_null() {
                room.cast::<u8>().write_bytes(0, ROOM);
                libc::free(room);
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod machine {
    pub fn gather_heap() {}

    pub fn look_at(_pages: &mut Vec<usize>) {}

    pub fn use_huge_pages() -> Result<(super::HugePages, Vec<usize>), String> {
        Err("only Linux is supported".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heap_and_programs_are_told_from_the_rest() {
        let maps = "1000-3000 r--p 00000000 fe:00 7 /usr/bin/a\n3000-9000 r-xp 00002000 fe:00 7 /usr/bin/a\n\
                    9000-a000 r--p 00008000 fe:00 7 /usr/bin/a\na000-b000 rw-p 00009000 fe:00 7 /usr/bin/a\n\
                    b000-f000 rw-p 00000000 00:00 0          [heap]\n20000-30000 r--p 00000000 fe:00 8 /a/model\n\
                    30000-40000 rw-p 00000000 00:00 0 \n40000-41000 ---p 00000000 00:00 0 \n\
                    50000-60000 rw-s 00000000 00:05 9 /dev/zero\n60000-61000 r-xp 00000000 00:00 0 [vdso]\n\
                    68000-70000 rw-p 00000000 00:00 0 [anon: glibc malloc]\n70000-80000 rw-p 00000000 00:00 0 [stack]\nzz-90000 rw-p 0 0 0\n\n";
        let image = Region::Image(vec![(0x1000..0x3000, false), (0x3000..0x9000, true), (0x9000..0xa000, false)]);
        assert_eq!(image.range(), 0x1000..0xa000);
        let heaps = [0xb000..0xf000, 0x30000..0x40000, 0x68000..0x70000].map(Region::Heap);
        assert_eq!(regions(maps), [&[image], &heaps[..]].concat());
    }

    #[test]
    fn what_was_moved_is_what_it_was() {
        gather_heap();
        let before: Vec<u64> = (0..4_000_000).collect();
        match use_huge_pages() {
            Ok(keeper) => {
                let got = keeper.pages();
                assert!(got.heap_bytes + got.text_bytes > 0, "{got}");
                assert!(got.heap_bytes <= got.of_heap_bytes && got.text_bytes <= got.of_text_bytes, "{got}");
                eprintln!("{got}");
            }
            Err(reason) => eprintln!("this kernel moves nothing: {reason}"),
        }
        assert!(before.iter().enumerate().all(|(at, &value)| value == at as u64));
        assert_eq!(std::thread::spawn(|| "still runs".to_owned()).join().unwrap(), "still runs");
    }
}
