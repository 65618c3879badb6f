//! Encodes or decodes one chunk many times, for `valgrind --tool=callgrind` and `perf`.
//!
//! ```sh
//! cargo build --release -p endplate-tokenizers --example profile
//! valgrind --tool=callgrind target/release/examples/profile TOKENIZER_DIR VECTORS.json smooth_0 decode 1000
//! ```
//! VECTORS is a file of reference vectors (`tests/data/synth_50x7.json`), the name one of its encode cases.
#![allow(clippy::unwrap_used, missing_docs)]

use endplate_tokenizers::FastTokenizer;
use std::hint::black_box;
use std::time::Instant;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, vectors, name, way, count] = arguments.as_slice() else {
        eprintln!("usage: profile TOKENIZER_DIR VECTORS.json CASE encode|decode COUNT");
        std::process::exit(2);
    };
    let vectors: serde_json::Value = serde_json::from_slice(&std::fs::read(vectors).unwrap()).unwrap();
    let case = vectors["encode"].as_array().unwrap().iter().find(|case| case["name"] == **name).unwrap();
    let chunk: Vec<Vec<f64>> = serde_json::from_value(case["chunk"].clone()).unwrap();
    let mut codec = FastTokenizer::from_dir(dir).unwrap().codec(chunk.len(), chunk[0].len()).unwrap();
    let chunk = chunk.concat();
    let (mut ids, mut out) = (Vec::with_capacity(4 * chunk.len()), vec![0.0; chunk.len()]);
    codec.encode(&chunk, &mut ids).unwrap();
    let count: usize = count.parse().unwrap();
    let begin = Instant::now();
    for _ in 0..count {
        if way == "encode" {
            black_box(codec.encode(black_box(&chunk), &mut ids)).unwrap();
        } else {
            black_box(codec.decode(black_box(&ids), &mut out)).unwrap();
        }
    }
    eprintln!("{} ids, {:.0} ns each", ids.len(), begin.elapsed().as_nanos() as f64 / count as f64);
}
