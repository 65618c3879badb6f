//! XXH3, 128 bits, seed 0: the hash by which rmw_zenoh names an endpoint.
//!
//! Follows the xxHash specification, version 0.2.0, "XXH3 Algorithm Overview"; the step names are its own. Only the
//! one-shot form with the default secret is here.

const PRIME32: [u64; 3] = [0x9E37_79B1, 0x85EB_CA77, 0xC2B2_AE3D];
const PRIME64: [u64; 5] =
    [0x9E37_79B1_85EB_CA87, 0xC2B2_AE3D_27D4_EB4F, 0x1656_67B1_9E37_79F9, 0x85EB_CA77_C2B2_AE63, 0x27D4_EB2F_1656_67C5];
const PRIME_MX1: u64 = 0x1656_6791_9E37_79F9;
const PRIME_MX2: u64 = 0x9FB2_1C65_1E98_DF25;

const STRIPE: usize = 64;
const STRIPES_PER_BLOCK: usize = (SECRET.len() - STRIPE) / 8;

#[rustfmt::skip]
const SECRET: [u8; 192] = [
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
];

/// The hash of `input`: the low 64 bits of the result are the specification's low half.
pub(crate) fn xxh3_128(input: &[u8]) -> u128 {
    let (low, high) = match input.len() {
        0..=16 => small(input),
        17..=240 => medium(input),
        _ => large(input),
    };
    u128::from(high) << 64 | u128::from(low)
}

fn u32_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 4].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u32_at(bytes, at + 4) << 32 | u32_at(bytes, at)
}

fn halves(product: u128) -> (u64, u64) {
    (product as u64, (product >> 64) as u64)
}

fn wide(a: u64, b: u64) -> (u64, u64) {
    halves(u128::from(a) * u128::from(b))
}

fn fold(a: u64, b: u64) -> u64 {
    let (low, high) = wide(a, b);
    low ^ high
}

fn avalanche(hash: u64) -> u64 {
    let hash = (hash ^ hash >> 37).wrapping_mul(PRIME_MX1);
    hash ^ hash >> 32
}

fn avalanche_xxh64(hash: u64) -> u64 {
    let hash = (hash ^ hash >> 33).wrapping_mul(PRIME64[1]);
    let hash = (hash ^ hash >> 29).wrapping_mul(PRIME64[2]);
    hash ^ hash >> 32
}

/// 0 to 16 bytes.
fn small(input: &[u8]) -> (u64, u64) {
    let secret = |at: usize| u64_at(&SECRET, at) ^ u64_at(&SECRET, at + 8);
    let len = input.len();
    match len {
        0 => (avalanche_xxh64(secret(64)), avalanche_xxh64(secret(80))),
        1..=3 => {
            let [first, middle, last] = [input[0], input[len / 2], input[len - 1]].map(u32::from);
            let low = first << 16 | middle << 24 | last | (len as u32) << 8;
            let high = low.swap_bytes().rotate_left(13);
            let secret = |at: usize| u32_at(&SECRET, at) ^ u32_at(&SECRET, at + 4);
            (avalanche_xxh64(u64::from(low) ^ secret(0)), avalanche_xxh64(u64::from(high) ^ secret(8)))
        }
        4..=8 => {
            let keyed = (u32_at(input, len - 4) << 32 | u32_at(input, 0)) ^ secret(16);
            let (low, high) = wide(keyed, PRIME64[0].wrapping_add((len as u64) << 2));
            let high = high.wrapping_add(low << 1);
            let low = low ^ high >> 3;
            let low = (low ^ low >> 35).wrapping_mul(PRIME_MX2);
            (low ^ low >> 28, avalanche(high))
        }
        _ => {
            let (first, last) = (u64_at(input, 0), u64_at(input, len - 8));
            let (low, high) = wide(first ^ last ^ secret(32), PRIME64[0]);
            let low = low.wrapping_add((len as u64 - 1) << 54);
            let last = last ^ secret(48);
            let high = high.wrapping_add(last).wrapping_add((last & 0xffff_ffff).wrapping_mul(PRIME32[1] - 1));
            let low = low ^ high.swap_bytes();
            let (mixed, carried) = wide(low, PRIME64[1]);
            (avalanche(mixed), avalanche(carried.wrapping_add(high.wrapping_mul(PRIME64[1]))))
        }
    }
}

fn mix16(input: &[u8], at: usize, secret: usize) -> u64 {
    fold(u64_at(input, at) ^ u64_at(&SECRET, secret), u64_at(input, at + 8) ^ u64_at(&SECRET, secret + 8))
}

/// The two accumulators of an input of 17 to 240 bytes.
struct Pair {
    low: u64,
    high: u64,
}

impl Pair {
    fn mix(&mut self, input: &[u8], a: usize, b: usize, secret: usize) {
        let sum = |at: usize| u64_at(input, at).wrapping_add(u64_at(input, at + 8));
        self.low = self.low.wrapping_add(mix16(input, a, secret)) ^ sum(b);
        self.high = self.high.wrapping_add(mix16(input, b, secret + 16)) ^ sum(a);
    }
}

/// 17 to 240 bytes.
fn medium(input: &[u8]) -> (u64, u64) {
    let len = input.len();
    let mut pair = Pair { low: (len as u64).wrapping_mul(PRIME64[0]), high: 0 };
    if len <= 128 {
        for step in (0..=(len - 1) / 32).rev() {
            pair.mix(input, 16 * step, len - 16 * (step + 1), 32 * step);
        }
    } else {
        for step in 0..4 {
            pair.mix(input, 32 * step, 32 * step + 16, 32 * step);
        }
        pair = Pair { low: avalanche(pair.low), high: avalanche(pair.high) };
        for step in 4..len / 32 {
            pair.mix(input, 32 * step, 32 * step + 16, 3 + 32 * (step - 4));
        }
        pair.mix(input, len - 16, len - 32, 103);
    }
    let high = pair.low.wrapping_mul(PRIME64[0]).wrapping_add(pair.high.wrapping_mul(PRIME64[3]));
    let high = high.wrapping_add((len as u64).wrapping_mul(PRIME64[1]));
    (avalanche(pair.low.wrapping_add(pair.high)), avalanche(high).wrapping_neg())
}

/// More than 240 bytes.
fn large(input: &[u8]) -> (u64, u64) {
    let len = input.len();
    let [p64_1, p64_2, p64_3, p64_4, p64_5] = PRIME64;
    let mut lanes = [PRIME32[2], p64_1, p64_2, p64_3, p64_4, PRIME32[1], p64_5, PRIME32[0]];
    // The last stripe is taken apart, so a full last block is not scrambled.
    for (index, stripe) in input[..len - 1].chunks_exact(STRIPE).enumerate() {
        accumulate(&mut lanes, stripe, index % STRIPES_PER_BLOCK * 8);
        let block_ends = (index + 1) % STRIPES_PER_BLOCK == 0;
        if block_ends {
            scramble(&mut lanes);
        }
    }
    accumulate(&mut lanes, &input[len - STRIPE..], SECRET.len() - STRIPE - 7);
    let start = (len as u64).wrapping_mul(p64_1);
    let end = !(len as u64).wrapping_mul(p64_2);
    (merge(&lanes, 11, start), merge(&lanes, SECRET.len() - STRIPE - 11, end))
}

fn accumulate(lanes: &mut [u64; 8], stripe: &[u8], secret: usize) {
    for lane in 0..8 {
        let value = u64_at(stripe, 8 * lane);
        let key = value ^ u64_at(&SECRET, secret + 8 * lane);
        lanes[lane ^ 1] = lanes[lane ^ 1].wrapping_add(value);
        lanes[lane] = lanes[lane].wrapping_add((key & 0xffff_ffff) * (key >> 32));
    }
}

fn scramble(lanes: &mut [u64; 8]) {
    for (index, lane) in lanes.iter_mut().enumerate() {
        let key = u64_at(&SECRET, SECRET.len() - STRIPE + 8 * index);
        *lane = (*lane ^ *lane >> 47 ^ key).wrapping_mul(PRIME32[0]);
    }
}

fn merge(lanes: &[u64; 8], secret: usize, start: u64) -> u64 {
    let mixed = (0..4).map(|i| {
        let at = secret + 16 * i;
        fold(lanes[2 * i] ^ u64_at(&SECRET, at), lanes[2 * i + 1] ^ u64_at(&SECRET, at + 8))
    });
    avalanche(mixed.fold(start, u64::wrapping_add))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the bytes `(7·i + n) mod 251`, `i` in `0..n`. Made with the reference implementation's Python binding 4.1.0:
    /// `xxhash.xxh3_128(bytes((i*7+n)%251 for i in range(n))).intdigest().to_bytes(16, "little").hex()`.
    const VECTORS: &[(usize, &str)] = &[
        (0, "7f498d4624c30160d8984701d306aa99"),
        (1, "ebce86ebd2f92ee105558391445a0251"),
        (3, "1c485b48da8d08a9a54582bf3c7631ce"),
        (4, "e005a753b5db391c14e215b24fda40dd"),
        (8, "0251e607d6152eed21b4e6bfd1639af6"),
        (9, "5b64ab8d6a02297dc5a30938597f43e6"),
        (16, "bd835e8d5b12e2930e196dc4240f92e8"),
        (17, "d8d6c7e8986f169f64d5ed6b50d4a387"),
        (32, "69ef13135d52e5a9146c4a36cc898b94"),
        (33, "b445e0b7ad9cb668c0af45aad1783206"),
        (64, "a15126f2159ef164603cc631cf4c30d7"),
        (65, "c73b3aaf03c2056399c686dde9db1943"),
        (96, "9b43125a05c0f04e8c73040663e1cb58"),
        (97, "a0849e5671abb29e652b96e27de1baca"),
        (128, "35bc183efe22e3801bc248c127879264"),
        (129, "7fed738d6fabd087cd5640b372b81108"),
        (160, "8876335f472069c674b4c1481a5a2806"),
        (200, "81f1e81e38faf91fa7cd504ce07709b9"),
        (240, "88d50b91529d68e8e4041609ea5cbb0e"),
        (241, "905dbe2d64e380ee8c2e36dc975d57b2"),
        (300, "c6f4e11a9ace60adb26d766dd457dd70"),
        (1024, "679a6d7fb50e9ab229aa25ed9905413c"),
        (1025, "3c55c6424a4cc94f02cc2fdc204e0362"),
        (2500, "71dbedea670565deabddb80c98827e7f"),
    ];

    #[test]
    fn every_length_class_gives_the_reference_hash() {
        for &(len, expected) in VECTORS {
            let input: Vec<u8> = (0..len).map(|i| ((i * 7 + len) % 251) as u8).collect();
            let hash: String = xxh3_128(&input).to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hash, expected, "{len} bytes");
        }
    }
}
