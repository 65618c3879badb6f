//! Decoding never allocates after construction; encoding neither, when `ids` has room.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Random, fit};
use endplate_tokenizers::{ActionTokenizer, BinCodec, DigitCodec, FitOptions, Fsq, Progress, Repair, VqCodec};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Allocations of this thread; the test harness has others.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on unchanged to the system allocator, which upholds the contract;
// counting touches a constant-initialised thread-local without a destructor, which cannot allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn decoding_and_encoding_do_not_allocate() {
    assert!(allocations(|| drop(std::hint::black_box(vec![0u8; 100]))) > 0, "the counter must count");
    let (horizon, dims) = (16, 6);
    let mut random = Random(11);
    let chunks = random.chunks(200, horizon, dims);
    // A fine scale: two-byte characters and many pieces.
    let options = FitOptions { scale: 30.0, vocab_size: 600, min_frequency: 2 };
    let tokenizer = fit(&chunks, horizon, dims, &options);
    let mut codec = tokenizer.codec(horizon, dims).unwrap();
    let mut ids = Vec::with_capacity(4 * horizon * dims);
    let mut out = vec![0.0; horizon * dims];
    let garbage: Vec<u32> = (0..300).map(|_| random.below(tokenizer.vocab_size() + 1)).collect();
    let mut mask = vec![false; tokenizer.vocab_size() as usize];
    let counted = allocations(|| {
        for chunk in &chunks {
            codec.encode(chunk, &mut ids).unwrap();
            codec.decode(&ids, &mut out).unwrap();
            codec.reset();
            for &id in &ids {
                if codec.push(id).unwrap() == Progress::Complete {
                    codec.finish(&mut out).unwrap();
                }
            }
            assert!(codec.allowed(&mut mask).is_ok_and(|allowed| allowed == 0));
            let _ = codec.decode_anytime(&ids[..ids.len() / 2], &mut out, 0.0).unwrap();
            let _ = codec.decode_repaired(&garbage, Repair::Relaxed, &mut out).unwrap();
            let _ = codec.decode_repaired(&garbage, Repair::Upstream, &mut out).unwrap();
            assert!(codec.decode(&garbage, &mut out).is_err());
            assert!(codec.finish_anytime(&mut out, 0.0).is_err());
            assert!(codec.encode(&out[1..], &mut ids).is_err());
        }
    });
    assert_eq!(counted, 0);
}

#[test]
fn no_other_tokenizer_allocates_in_decode() {
    let mut tokenizers: Vec<Box<dyn ActionTokenizer>> = vec![
        Box::new(BinCodec::open_vla(32_000, 4, 2).unwrap()),
        Box::new(BinCodec::open_pi(4, 2).unwrap()),
        Box::new(DigitCodec::new(4, 2).unwrap()),
        Box::new(Fsq::omni_jarvis().codec(4, 0).unwrap()),
        Box::new(VqCodec::new(&[0.0, 1.0, 0.5, 0.5], 2, 7, 4).unwrap()),
    ];
    for tokenizer in &mut tokenizers {
        let needed = tokenizer.horizon() * tokenizer.dims();
        let (mut ids, mut out) = (Vec::new(), vec![0.0; needed]);
        tokenizer.encode(&vec![0.5; needed], &mut ids).unwrap();
        let garbage: Vec<u32> = ids.iter().rev().chain(&ids).copied().chain([u32::MAX]).collect();
        let counted = allocations(|| {
            tokenizer.decode(&ids, &mut out).unwrap();
            assert!(tokenizer.decode(&garbage, &mut out).is_err());
        });
        assert_eq!(counted, 0);
    }
}
