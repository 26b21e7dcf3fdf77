//! What no input may cost: a panic, a minute, 256 MiB of memory at a time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Largest single allocation. Memory of the compression libraries is bounded by their own settings.
const MOST_MEMORY: usize = 256 << 20;
/// Generous, as the machine may be busy with other things; a hang is for ever.
const LONGEST: Duration = Duration::from_secs(60);

/// The system's allocator, which remembers the largest piece each thread has asked for.
struct Counting;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn note(size: usize) {
    // A thread that is ending has no place for it any more.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: every call is handed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs one case; names it if it fails.
pub fn watched<T>(target: &'static str, number: u64, case: impl FnOnce() -> T) -> T {
    let (done, waiting) = channel::<()>();
    std::thread::spawn(move || {
        if waiting.recv_timeout(LONGEST) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{target}: case {number} does not end");
            std::process::abort();
        }
    });
    LARGEST.set(0);
    let result = catch_unwind(AssertUnwindSafe(case));
    drop(done);
    let largest = LARGEST.get();
    match result {
        Ok(value) => {
            assert!(largest <= MOST_MEMORY, "{target}: case {number} allocates {largest} bytes");
            value
        }
        Err(panic) => {
            eprintln!("{target}: case {number} panics");
            resume_unwind(panic)
        }
    }
}
