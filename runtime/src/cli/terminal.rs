//! Lines for whoever watches: `say!` on standard output, `remark!` on standard error; `…_part!` without an end of line.
//!
//! Nobody has to watch. A reader goes (`| head`), a terminal hangs up, a disk fills, and a robot is still moving: what
//! cannot be written is dropped, and anything but a reader who has gone is said once on standard error.

use core::fmt;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::sync::atomic::{AtomicBool, Ordering};

static TOLD: AtomicBool = AtomicBool::new(false);

/// Writes to standard output.
pub fn out(text: fmt::Arguments<'_>) {
    let Err(error) = stdout().lock().write_fmt(text) else { return };
    if error.kind() != ErrorKind::BrokenPipe && !TOLD.swap(true, Ordering::Relaxed) {
        err(format_args!("standard output: {error}: lines are missing from here on\n"));
    }
}

/// Writes to standard error. There is nowhere left to say that it failed.
pub fn err(text: fmt::Arguments<'_>) {
    let _ = stderr().lock().write_fmt(text);
}

macro_rules! say {
    ($($text:tt)*) => { $crate::cli::terminal::out(format_args!("{}\n", format_args!($($text)*))) };
}

macro_rules! say_part {
    ($($text:tt)*) => { $crate::cli::terminal::out(format_args!($($text)*)) };
}

macro_rules! remark {
    ($($text:tt)*) => { $crate::cli::terminal::err(format_args!("{}\n", format_args!($($text)*))) };
}

macro_rules! remark_part {
    ($($text:tt)*) => { $crate::cli::terminal::err(format_args!($($text)*)) };
}
