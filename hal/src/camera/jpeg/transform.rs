//! The inverse cosine transform after Loeffler, Ligtenberg and Moschytz (ICASSP 1989) with 13-bit constants: columns first,
//! two extra bits between the passes, the rounding of libjpeg's `islow`.

const BITS: u32 = 13;
const BETWEEN: u32 = 2;

/// A constant in 1/8192.
const fn fixed(value: f64) -> i32 {
    (value * 8192.0 + 0.5) as i32
}

const C0_298: i32 = fixed(0.298_631_336);
const C0_390: i32 = fixed(0.390_180_644);
const C0_541: i32 = fixed(0.541_196_100);
const C0_765: i32 = fixed(0.765_366_865);
const C0_899: i32 = fixed(0.899_976_223);
const C1_175: i32 = fixed(1.175_875_602);
const C1_501: i32 = fixed(1.501_321_110);
const C1_847: i32 = fixed(1.847_759_065);
const C1_961: i32 = fixed(1.961_570_560);
const C2_053: i32 = fixed(2.053_119_869);
const C2_562: i32 = fixed(2.562_915_447);
const C3_072: i32 = fixed(3.072_711_026);

/// One pass over eight numbers, scaled by 8192. Hostile numbers wrap.
fn pass(x: [i32; 8]) -> [i32; 8] {
    let mul = i32::wrapping_mul;
    let add = i32::wrapping_add;
    let sub = i32::wrapping_sub;
    // Even.
    let turn = mul(add(x[2], x[6]), C0_541);
    let (low, high) = (sub(turn, mul(x[6], C1_847)), add(turn, mul(x[2], C0_765)));
    let (sum, difference) = (add(x[0], x[4]).wrapping_shl(BITS), sub(x[0], x[4]).wrapping_shl(BITS));
    let even = [add(sum, high), add(difference, low), sub(difference, low), sub(sum, high)];
    // Odd.
    let (z1, z2, z3, z4) = (add(x[7], x[1]), add(x[5], x[3]), add(x[7], x[3]), add(x[5], x[1]));
    let z5 = mul(add(z3, z4), C1_175);
    let (z1, z2) = (mul(z1, -C0_899), mul(z2, -C2_562));
    let (z3, z4) = (add(mul(z3, -C1_961), z5), add(mul(z4, -C0_390), z5));
    let odd = [
        add(mul(x[1], C1_501), add(z1, z4)),
        add(mul(x[3], C3_072), add(z2, z3)),
        add(mul(x[5], C2_053), add(z2, z4)),
        add(mul(x[7], C0_298), add(z1, z3)),
    ];
    core::array::from_fn(|index| match index {
        0..=3 => add(even[index], odd[index]),
        _ => sub(even[7 - index], odd[7 - index]),
    })
}

fn rounded(value: i32, bits: u32) -> i32 {
    value.wrapping_add(1 << (bits - 1)) >> bits
}

/// Samples of a block from its scaled coefficients, both row by row.
pub(super) fn inverse(values: &[i32; 64]) -> [u8; 64] {
    let mut between = [0i32; 64];
    for column in 0..8 {
        let passed = pass(core::array::from_fn(|row| values[row * 8 + column]));
        for (row, value) in passed.into_iter().enumerate() {
            between[row * 8 + column] = rounded(value, BITS - BETWEEN);
        }
    }
    let mut samples = [0; 64];
    for (row, out) in samples.chunks_exact_mut(8).enumerate() {
        let passed = pass(core::array::from_fn(|column| between[row * 8 + column]));
        for (sample, value) in out.iter_mut().zip(passed) {
            // Three bits for the factor 8 of two passes.
            *sample = rounded(value, BITS + BETWEEN + 3).wrapping_add(128).clamp(0, 255) as u8;
        }
    }
    samples
}
